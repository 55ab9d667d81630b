package pool_test

import (
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
	"claudepool/pool/confine"
)

func confinement(t *testing.T) *confine.Confinement {
	uids, err := confine.LockUIDs(2_000_000_000, 100, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, uids.Close()) })
	return &confine.Confinement{UIDs: uids}
}

// bash has the agent of the user run a command and returns what it said.
func (s *service) bash(user, command string) string {
	s.t.Helper()
	input, err := json.Marshal(map[string]any{"command": command, "timeout": 60000})
	require.NoError(s.t, err)
	return s.ask(user, "[[tool=Bash "+string(input)+"]]", nil).text(s.t)
}

func TestX(t *testing.T) {
	s := newServiceWith(t, confinement(t), func(o *pool.Options) { o.PermissionMode = "bypassPermissions"; o.Confined = true })
	t.Log(s.ask("ada", "hello", nil).text(t))
	t.Log(s.bash("ada", "id; pwd; ls -la ~ . $TMPDIR; ulimit -a; cat <(echo hi); git --version; python3 --version; env"))
	t.Log(s.logs.String())
}
