package poold

import (
	"bytes"
	"cmp"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"claudepool/infra/settings"
	"claudepool/infra/snapshot"
	"claudepool/infra/testkit/need"
	"claudepool/router"
)

// unusable is the base of a block that would reach beyond the last uid.
const unusable = 1<<32 - 1

// logs is a log that may be read while it is written.
type logs struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logs) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// begin starts an instance with the settings given and returns it, or why it didn't start, with what it logged.
func begin(t *testing.T, base int, environ ...string) (*Instance, string, error) {
	parent := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(parent), 0o711)) // made for this uid alone
	s, err := settings.LoadPool(append(environ, "HOP_KEYS=0123456789abcdef0123456789abcdef", "CLAUDE_BIN=/bin/true",
		"WORKSPACES_ROOT="+filepath.Join(parent, "workspaces"), "UID_COUNT=10"))
	require.NoError(t, err)
	s.UIDBase = cmp.Or(base, 2_100_000_000)
	redis, err := router.NewClient("redis://"+miniredis.RunT(t).Addr(), "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = redis.Close() })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var log logs
	i, err := Start(s, Parts{Logger: slog.New(slog.NewTextHandler(&log, nil)), Redis: redis, Store: snapshot.NewMemory(),
		Listener: listener, Addr: listener.Addr().String()})
	if err != nil {
		listener.Close()
		return nil, log.String(), err
	}
	t.Cleanup(i.Shutdown)
	return i, log.String(), nil
}

func TestIsolation_RequireStartsWhereAllHolds(t *testing.T) {
	need.Root(t)
	i, _, err := begin(t, 0, "ISOLATION=require")
	require.NoError(t, err)
	require.True(t, i.report.InForce(required...))
	opts := i.poolOptions(1)
	require.True(t, opts.Confined)
	require.Equal(t, "bypassPermissions", opts.PermissionMode)
}

func TestIsolation_RequireRefusesToStartAndNamesWhatIsMissing(t *testing.T) {
	_, _, err := begin(t, unusable, "ISOLATION=require")
	require.ErrorContains(t, err, "ISOLATION=require")
	require.ErrorContains(t, err, "no uid is left")
}

func TestIsolation_BestEffortStartsWithWhatThereIs(t *testing.T) {
	i, logged, err := begin(t, unusable, "ISOLATION=best-effort")
	require.NoError(t, err)
	require.Contains(t, logged, "service's own uid")
	require.Contains(t, logged, "missing=")
	table := i.report.Table()
	require.False(t, table["uid"])
	require.True(t, table["files"] && table["network"] && table["syscalls"], table)
	opts := i.poolOptions(1)
	require.False(t, opts.Confined)
	require.Equal(t, "default", opts.PermissionMode)
}

func TestIsolation_OffIsNone(t *testing.T) {
	i, logged, err := begin(t, 0, "ISOLATION=off")
	require.NoError(t, err)
	require.Contains(t, logged, "not isolated")
	for name, inForce := range i.report.Table() {
		require.False(t, inForce, name)
	}
	require.False(t, i.poolOptions(1).Confined)
}

func TestIsolation_PortsOfTheServiceItselfAreNeverOpen(t *testing.T) {
	_, _, err := begin(t, 0, "CONNECT_PORTS=443,8080")
	require.ErrorContains(t, err, "CONNECT_PORTS")
	_, _, err = begin(t, 0, "CONNECT_PORTS=443,6379")
	require.ErrorContains(t, err, "CONNECT_PORTS")
}
