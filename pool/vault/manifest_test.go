package vault

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
	"claudepool/pool/seal"
)

// fixture is what a release before this one has archived; see its README.
const fixture = "../testdata/fca6aad"

func TestVault_ARecordOfAnEarlierReleaseOpens(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(fixture)))
	v := New(archive.NewFolder(folder, time.Hour))
	keys := seal.Derive("sk-ant-oat01-token-of-fixture")
	c := only(t, v, keys)
	require.NotEmpty(t, c.Session)
	require.NotEmpty(t, c.Incarnation)
	require.True(t, c.Default)
	require.Equal(t, "haiku", c.Settings.Model)
	require.NotEqual(t, make([]byte, 32), c.Digests.Former())
	require.Contains(t, transcript(t, v, keys), c.GoodTurn)
}

// An earlier release opens what is stored, and so do those of which a part was renamed.
func TestVault_RecordsAreSpelledAsEver(t *testing.T) {
	s := newStore(t)
	v := New(s)
	m := manifest("first", "turn-1")
	m.Settings.System = strings.Repeat("s", maxInManifest)
	save(t, v, ada, m, 1, "all that was said")
	records, err := s.Store.List(t.Context(), ada.Owner())
	require.NoError(t, err)
	text, err := ada.Open(records[0].Head, seal.Place{Name: ada.Name("first"), Version: 1, Part: "head"})
	require.NoError(t, err)
	var stored map[string]any
	require.NoError(t, json.Unmarshal(text, &stored))
	require.Len(t, stored["Digest"], 44)   // 32 bytes in base64
	require.Len(t, stored["Digests"], 344) // eight of them
	delete(stored, "Digest")
	delete(stored, "Digests")
	settings := map[string]any{"Model": "", "Fallback": "", "Permission": "", "System": "", "Thinking": nil}
	require.Equal(t, map[string]any{"Session": "first", "Born": "born-first", "Named": true, "Standard": true,
		"GoodTurn": "turn-1", "Settings": settings, "Apart": true, "LastUsed": "2026-01-02T03:04:05Z"}, stored)
	sealed, err := s.Load(t.Context(), ada.Owner(), records[0].Name, 1)
	require.NoError(t, err)
	_, err = ada.Open(sealed, seal.Place{Name: ada.Name("first"), Version: 1, Part: "body"})
	require.NoError(t, err)
}
