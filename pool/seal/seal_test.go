package seal

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

var place = Place{"c1", 3, "body"}

func TestKeys_OpenWhatTheyHaveSealed(t *testing.T) {
	text := []byte("what was said")
	sealed := Derive("token").Seal(text, place)
	require.NotContains(t, string(sealed), "said")
	opened, err := Derive("token").Open(sealed, place)
	require.NoError(t, err)
	require.Equal(t, text, opened)
	require.NotEqual(t, sealed, Derive("token").Seal(text, place), "the same looks different each time")
}

func TestKeys_OpenNothingElse(t *testing.T) {
	keys := Derive("token")
	sealed := keys.Seal([]byte("text"), place)
	for name, where := range map[string]Place{"name": {"c2", 3, "body"}, "version": {"c1", 4, "body"},
		"part": {"c1", 3, "head"}} {
		_, err := keys.Open(sealed, where)
		require.ErrorIs(t, err, ErrOpen, name)
	}
	_, err := Derive("other").Open(sealed, place)
	require.ErrorIs(t, err, ErrOpen)
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		_, err := keys.Open(changed, place)
		require.ErrorIs(t, err, ErrOpen)
		_, err = keys.Open(sealed[:i], place)
		require.ErrorIs(t, err, ErrOpen)
	}
}

func TestKeys_NamesTellNothingAndDiffer(t *testing.T) {
	one, other := Derive("token"), Derive("other")
	require.Equal(t, one.Owner(), Derive("token").Owner())
	require.NotEqual(t, one.Owner(), other.Owner())
	require.NotEqual(t, one.Name("s"), other.Name("s"))
	require.NotEqual(t, one.Name("s"), one.Name("t"))
	require.Regexp(t, "^[0-9a-f]{64}$", one.Owner())
	require.Regexp(t, "^[0-9a-f]{32}$", one.Name("s"))
}
