package need

import (
	"net"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
)

// Redis starts a redis-server that keeps nothing and ends with the test. It returns host:port, where nothing may answer yet.
func Redis(t testing.TB) (addr string) {
	t.Helper()
	addr, err := freeport.Addr()
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(addr)
	server := exec.Command(Program(t, "redis-server"), // #nosec G204 -- for tests
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	})
	return addr
}
