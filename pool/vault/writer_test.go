package vault

import (
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
)

func TestWriter_ASaveWhoseAnswerWasLostIsItsOwn(t *testing.T) {
	s := newStore(t)
	v := New(s)
	w := v.NewWriter(ada)
	s.loses = 1
	_, err := w.Save(t.Context(), manifest("first", "turn-1"), 1, NewBody([]byte("one")))
	require.ErrorIs(t, err, errLost)
	isNewest, err := w.Save(t.Context(), manifest("first", "turn-2"), 1, NewBody([]byte("two")))
	require.NoError(t, err)
	require.False(t, isNewest, "that is the one before")
	require.Equal(t, "one", transcript(t, v, ada))
	isNewest, err = w.Save(t.Context(), manifest("first", "turn-2"), 2, NewBody([]byte("two")))
	require.NoError(t, err)
	require.True(t, isNewest)
	require.Equal(t, "two", transcript(t, v, ada))
}

func TestWriter_TellsThePresentVersion(t *testing.T) {
	s := newStore(t)
	v := New(s)
	w := v.NewWriter(ada)
	present := func() int64 {
		version, err := w.Present(t.Context(), "first")
		require.NoError(t, err)
		return version
	}
	require.Zero(t, present())
	save(t, v, ada, manifest("first", "turn-1"), 1, "one")
	save(t, v, ada, manifest("second", "turn-1"), 1, "one")
	save(t, v, ada, manifest("first", "turn-2"), 2, "two")
	require.EqualValues(t, 2, present())
	require.NoError(t, v.Drop(t.Context(), ada, "first", 2))
	require.Zero(t, present())
	require.NoError(t, v.Delete(t.Context(), ada, "second"))
	_, err := w.Present(t.Context(), "second")
	require.ErrorIs(t, err, archive.ErrConflict)
	s.err = errAway
	_, err = w.Present(t.Context(), "second")
	require.ErrorIs(t, err, errAway)
}

func TestWriter_AnothersVersionIsAConflict(t *testing.T) {
	s := newStore(t)
	v := New(s)
	save(t, v, ada, manifest("first", "turn-of-another"), 1, "another's")
	w := v.NewWriter(ada)
	_, err := w.Save(t.Context(), manifest("first", "turn-1"), 1, NewBody(nil))
	require.ErrorIs(t, err, archive.ErrConflict)

	s.err = errAway // now it can't be sure
	_, err = w.Save(t.Context(), manifest("first", "turn-1"), 1, NewBody(nil))
	require.ErrorIs(t, err, errAway)
	s.err = nil
	_, err = w.Save(t.Context(), manifest("first", "turn-1"), 1, NewBody(nil))
	require.ErrorIs(t, err, archive.ErrConflict)
	require.Equal(t, "another's", transcript(t, v, ada))
}
