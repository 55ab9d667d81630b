package testkit

import (
	"context"
	"net"
	"os/exec"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit/need"
)

// Candidates is the sorted set of the instances that fronts place users on.
const Candidates = "{claudepool}:candidates"

// StartRedis starts a redis-server at an address of the loopback, with more arguments. It keeps nothing on disk, and
// need not answer yet. Where there is no such program the error is exec.ErrNotFound.
func StartRedis(folder, addr string, more ...string) (*Process, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	args := []string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no"}
	return Start(folder, nil, bin, append(args, more...)...)
}

// Redis starts one that ends with the test, and returns host:port. Without the program the test is skipped, but fails
// under CI.
func Redis(t testing.TB, more ...string) (addr string) {
	t.Helper()
	need.Program(t, "redis-server")
	addr, err := freeport.Addr()
	require.NoError(t, err)
	server, err := StartRedis(t.TempDir(), addr, more...)
	require.NoError(t, err)
	t.Cleanup(server.Kill)
	return addr
}

// Placeable is how many instances fronts place users on.
func Placeable(ctx context.Context, client redis.Cmdable) int {
	return int(client.ZCard(ctx, Candidates).Val())
}
