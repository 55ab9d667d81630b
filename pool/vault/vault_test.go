package vault

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/seal"
)

var (
	ada = seal.Derive("sk-ant-oat01-token-of-ada")
	bob = seal.Derive("sk-ant-oat01-token-of-bob")
)

// store is an archive in a folder that tests can break.
type store struct {
	archive.Store
	folder string
	lists  int
	err    error  // of all that is asked
	slow   string // the owner who has too much to be listed
	loses  int    // answers to so many saves
}

var (
	errAway = errors.New("away")
	errLost = errors.New("the answer was lost")
)

func newStore(t *testing.T) *store {
	t.Helper()
	folder := t.TempDir()
	return &store{Store: archive.NewFolder(folder, time.Hour), folder: folder}
}

func (s *store) List(ctx context.Context, owner string) ([]archive.Record, error) {
	s.lists++
	if s.err != nil || owner == s.slow {
		return nil, errors.Join(s.err, errAway)
	}
	return s.Store.List(ctx, owner)
}

func (s *store) Save(ctx context.Context, owner string, r archive.Record, body []byte) error {
	if s.err != nil {
		return s.err
	}
	err := s.Store.Save(ctx, owner, r, body)
	if err == nil && s.loses > 0 {
		s.loses--
		return errLost
	}
	return err
}

// manifest tells of a conversation after a turn.
func manifest(session, turn string) Manifest {
	thinking := true
	return Manifest{Session: session, Incarnation: "born-" + session, Named: true, Default: true,
		Digests: api.HistoryOf(nil).Begin().Extend([]api.Message{{Role: "user", Content: []byte(`"heliotrope"`)}},
			api.Reply{All: "all", Message: "message", Block: "block", Deltas: "deltas", Result: "result"}),
		GoodTurn: turn, LastUsed: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Settings: Settings{Model: "haiku", Fallback: "sonnet", Permission: "plan", System: "be brief", Thinking: &thinking,
			MCP: json.RawMessage(`{"birds":{"command":"/bin/cat"}}`), Background: true}}
}

func save(t *testing.T, v *Vault, keys *seal.Keys, m Manifest, version int64, transcript string) {
	t.Helper()
	require.NoError(t, v.Save(t.Context(), keys, m, version, NewBody([]byte(transcript))))
}

// only is the user's only conversation.
func only(t *testing.T, v *Vault, keys *seal.Keys) Conversation {
	t.Helper()
	l, err := v.List(t.Context(), keys)
	require.NoError(t, err)
	require.Empty(t, l.Unreadable)
	require.Len(t, l.Conversations, 1)
	return l.Conversations[0]
}

// transcript is that of the user's only conversation.
func transcript(t *testing.T, v *Vault, keys *seal.Keys) string {
	t.Helper()
	c := only(t, v, keys)
	b, err := v.Load(t.Context(), keys, c.Session, c.Version)
	require.NoError(t, err)
	text, err := b.Transcript()
	require.NoError(t, err)
	return string(text)
}

func TestVault_WhatIsSavedIsFoundAgain(t *testing.T) {
	v := New(newStore(t))
	m := manifest("first", "turn-1")
	save(t, v, ada, m, 1, "all that was said")
	require.Equal(t, Conversation{m, 1}, only(t, v, ada))
	require.Equal(t, "all that was said", transcript(t, v, ada))

	m.GoodTurn = "turn-2"
	save(t, v, ada, m, 2, "and more")
	require.Equal(t, Conversation{m, 2}, only(t, v, ada))
	require.Equal(t, "and more", transcript(t, v, ada))
	_, err := v.Load(t.Context(), ada, "first", 1)
	require.ErrorIs(t, err, archive.ErrConflict)
	require.ErrorIs(t, v.Save(t.Context(), ada, m, 2, NewBody(nil)), archive.ErrConflict)
}

func TestBody_TellsTheSizeOfItsTranscript(t *testing.T) {
	for _, size := range []int{0, 1, 100_000} {
		require.EqualValues(t, size, NewBody(make([]byte, size)).TranscriptSize())
	}
	require.Zero(t, Body{}.TranscriptSize())
}

func TestVault_LargeSettingsAreInTheBody(t *testing.T) {
	v := New(newStore(t))
	for name, system := range map[string]string{
		"at most":  strings.Repeat("s", maxInManifest-len(manifest("", "").Settings.MCP)),
		"too many": strings.Repeat("s", maxInManifest-len(manifest("", "").Settings.MCP)+1),
	} {
		m := manifest(name, "turn-1")
		m.Settings.System = system
		save(t, v, ada, m, 1, "all that was said")
		b, err := v.Load(t.Context(), ada, name, 1)
		require.NoError(t, err)
		text, err := b.Transcript()
		require.NoError(t, err)
		require.Equal(t, "all that was said", string(text))
		l, err := v.List(t.Context(), ada)
		require.NoError(t, err)
		require.Len(t, l.Conversations, 1)
		kept := l.Conversations[0]
		require.Equal(t, name == "too many", kept.SettingsInBody)
		require.Equal(t, name == "too many", m.Settings.IsLarge())
		if kept.SettingsInBody {
			require.Empty(t, kept.Settings)
			require.Equal(t, &m.Settings, b.Settings)
		} else {
			require.Equal(t, m.Settings, kept.Settings)
			require.Nil(t, b.Settings)
		}
		require.NoError(t, v.Delete(t.Context(), ada, name))
	}
}

// What has been loaded is saved for another user as it is.
func TestVault_ABodyIsPassedOnToAnotherUser(t *testing.T) {
	v := New(newStore(t))
	m := manifest("first", "turn-1")
	m.Settings.System = strings.Repeat("s", maxInManifest)
	save(t, v, ada, m, 1, "all that was said")
	b, err := v.Load(t.Context(), ada, "first", 1)
	require.NoError(t, err)
	m.Settings = Settings{Model: "opus"}
	require.NoError(t, v.Save(t.Context(), bob, m, 1, b))
	require.Equal(t, Conversation{m, 1}, only(t, v, bob))
	require.Equal(t, "all that was said", transcript(t, v, bob))
	require.NoError(t, v.Delete(t.Context(), ada, "first"))
	require.Equal(t, "all that was said", transcript(t, v, bob))
}

func TestVault_WithoutTheTokenNothingIsFoundNorRead(t *testing.T) {
	s := newStore(t)
	v := New(s)
	save(t, v, ada, manifest("a-session-of-ada", "turn-1"), 1, "all that was said")
	l, err := v.List(t.Context(), bob)
	require.NoError(t, err)
	require.Empty(t, l.Conversations)
	_, err = v.Load(t.Context(), bob, "a-session-of-ada", 1)
	require.Error(t, err)
	files := 0
	require.NoError(t, filepath.WalkDir(s.folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		for _, word := range []string{"said", "session", "heliotrope", "be brief", "birds", "turn-1"} {
			require.NotContains(t, string(content), word)
			require.NotContains(t, path, word)
		}
		return err
	}))
	require.NotZero(t, files)
}

func TestVault_AListingTellsWhatWasDeletedFromWhatNeverWas(t *testing.T) {
	v := New(newStore(t))
	save(t, v, ada, manifest("here", "turn-1"), 1, "")
	save(t, v, ada, manifest("gone", "turn-1"), 1, "")
	require.NoError(t, v.Delete(t.Context(), ada, "gone"))
	require.NoError(t, v.Delete(t.Context(), ada, "never"), "what isn't there")
	l, err := v.List(t.Context(), ada)
	require.NoError(t, err)
	require.Len(t, l.Conversations, 1)
	require.Equal(t, Saved, l.State("here"))
	require.Equal(t, Deleted, l.State("gone"))
	require.Equal(t, Unknown, l.State("never"))
	save(t, v, ada, manifest("gone", "turn-1"), 1, "begun anew")
	l, err = v.List(t.Context(), ada)
	require.NoError(t, err)
	require.Equal(t, Saved, l.State("gone"))
}

func TestVault_WhatIsDamagedIsNotBelieved(t *testing.T) {
	s := newStore(t)
	v := New(s)
	save(t, v, ada, manifest("first", "turn-1"), 1, "all that was said")
	records, err := s.Store.List(t.Context(), ada.Owner())
	require.NoError(t, err)
	sealed, err := s.Load(t.Context(), ada.Owner(), records[0].Name, 1)
	require.NoError(t, err)
	sealed[len(sealed)-1] ^= 1
	next := archive.Record{Name: records[0].Name, Version: 2, Head: records[0].Head} // of another version
	require.NoError(t, s.Store.Save(t.Context(), ada.Owner(), next, sealed))

	l, err := v.List(t.Context(), ada)
	require.NoError(t, err)
	require.Empty(t, l.Conversations)
	require.Len(t, l.Unreadable, 1)
	require.ErrorIs(t, l.Unreadable[0], seal.ErrOpen)
	require.Equal(t, Saved, l.State("first"), "it is there")
	_, err = v.Load(t.Context(), ada, "first", 2)
	require.ErrorIs(t, err, archive.ErrPermanent)

	_, err = Body{transcript: []byte("no gzip")}.Transcript()
	require.ErrorIs(t, err, archive.ErrPermanent)
}

func TestVault_AfterAFailureNobodyIsAskedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		v := New(s)
		s.err = errAway
		require.ErrorIs(t, v.Connect(t.Context()), errAway)
		_, err := v.List(t.Context(), ada)
		require.ErrorIs(t, err, errAway)
		s.err = nil
		time.Sleep(ListPause - time.Second)
		_, err = v.List(t.Context(), bob)
		require.ErrorIs(t, err, ErrPaused)
		require.Equal(t, 3, s.lists)
		time.Sleep(time.Second)
		_, err = v.List(t.Context(), bob)
		require.NoError(t, err)
		require.Equal(t, 4, s.lists)
	})
}

func TestVault_OneUserWhoHasTooMuchIsNobodyElsesConcern(t *testing.T) {
	s := newStore(t)
	s.slow = ada.Owner()
	v := New(s)
	_, err := v.List(t.Context(), ada)
	require.ErrorIs(t, err, errAway)
	_, err = v.List(t.Context(), bob)
	require.NoError(t, err)
}
