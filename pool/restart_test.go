package pool_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

// While nothing can be started, as on a machine in trouble, it isn't for the transcript: the conversation is there
// afterwards.
func TestPool_AConversationOutlivesThatNoProcessCanBeStarted(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "broken")
	s := newScriptedService(t, func(o *pool.Options) {
		path := filepath.Join(t.TempDir(), "cli")
		script := "#!/bin/sh\n[ -e " + broken + " ] && exit 1\nexec " + o.ClaudeBin + " \"$@\"\n"
		require.NoError(t, os.WriteFile(path, []byte(script), 0o755))
		o.ClaudeBin = path
	})
	s.ask("ada", "one", nil).text(t)
	s.reap()
	require.NoError(t, os.WriteFile(broken, nil, 0o600))
	for range 2 {
		require.Equal(t, http.StatusServiceUnavailable, s.ask("ada", "two", nil).status)
	}
	require.NoError(t, os.Remove(broken))
	require.Equal(t, "reply to: three", s.ask("ada", "three", nil).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: three"}, s.lastCall().Messages())
}
