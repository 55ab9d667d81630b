package pool_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
	"claudepool/pool/confine"
)

func newConfined(t *testing.T) *service {
	needRoot(t)
	return newServiceWith(t, confinement(t), func(o *pool.Options) { o.PermissionMode, o.Confined = "bypassPermissions", true })
}

func TestConfined_AConversationKeepsItsUIDAndFilesWhenItIsResumed(t *testing.T) {
	s := newConfined(t)
	first := s.bash("ada", "echo kept > file; id -u")
	require.NotContains(t, first, "said: 0")
	require.NotEqual(t, first, s.bash("bob", "id -u"))
	r := s.ask("ada", "hello", fields{"system": "be brief"}) // costs the process
	require.Equal(t, pool.ProcessResumed, r.process)
	require.Equal(t, first+"\nkept", s.bash("ada", "id -u; cat file"))
}

func TestConfined_AHistoryWrittenByTheServiceIsResumed(t *testing.T) {
	s := newConfined(t)
	r := s.ask("ada", "", fields{"messages": []fields{
		{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"},
	}})
	require.Equal(t, "reply to: three", r.text(t))
	require.Equal(t, []string{"user: one", "assistant: two", "user: three"}, s.lastCall().Messages())
}

func TestConfined_WhatATenantPlantsIsNotFollowed(t *testing.T) {
	s := newConfined(t)
	outside := t.TempDir()
	precious := filepath.Join(outside, "precious")
	require.NoError(t, os.WriteFile(precious, []byte("x"), 0o600))
	s.bash("ada", "rm -rf ~/.claude/projects && ln -s "+outside+" ~/.claude/projects && mv ~ ../old && ln -s "+outside+" ../home; true")
	r := s.ask("ada", "hello", fields{"system": "be brief"}) // begins anew, with what the tenant has left
	require.NotEmpty(t, r.body)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, "reply to: hello", s.ask("bob", "hello", nil).text(t))
}

func TestConfined_WithoutAUIDLeftTheInstanceIsFull(t *testing.T) {
	needRoot(t)
	uids, err := confine.LockUIDs(2_000_000_000, 1, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, uids.Close()) })
	s := newServiceWith(t, &confine.Confinement{UIDs: uids}, nil)
	s.ask("ada", "hello", nil).text(t)
	r := s.ask("bob", "hello", nil)
	require.Equal(t, 529, r.status)
	require.True(t, strings.Contains(r.body, "overloaded_error"), r.body)
	s.ask("ada", "hello again", nil).text(t)
}
