package poold

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/infra/settings"
	"claudepool/infra/snapshot"
	"claudepool/pool/pooltest"
	"claudepool/router"
)

// away is a store that never answers what it is asked to delete.
type away struct{ *snapshot.Memory }

func (away) Delete(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestInstance_GivesItsLeaseBackAlsoWhileTheStoreIsAway(t *testing.T) {
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	redis := miniredis.RunT(t)
	client, err := router.NewClient("redis://"+redis.Addr(), "")
	require.NoError(t, err)
	defer client.Close()
	s, err := settings.LoadPool([]string{"HOP_KEYS=" + strings.Repeat("k", 32), "CLAUDE_BIN=" + cli, "STANDBY=0",
		"WORKSPACES_ROOT=" + filepath.Join(t.TempDir(), "workspaces")})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	i, err := Start(s, Parts{Logger: slog.New(slog.DiscardHandler), Redis: client, Store: away{snapshot.NewMemory()},
		Listener: listener, Addr: listener.Addr().String()})
	require.NoError(t, err)
	key := "{claudepool}:instance:" + i.ID()
	require.Eventually(t, func() bool { return redis.Exists(key) }, 30*time.Second, 10*time.Millisecond)
	i.Shutdown()
	require.False(t, redis.Exists(key))
}

func TestInstance_ServesUnderThePublishedFingerprintOnly(t *testing.T) {
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	client, err := router.NewClient("redis://"+miniredis.RunT(t).Addr(), "")
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, router.EndSettling(t.Context(), client))
	s, err := settings.LoadPool([]string{"HOP_KEYS=" + strings.Repeat("k", 32), "CLAUDE_BIN=" + cli, "STANDBY=0",
		"WORKSPACES_ROOT=" + filepath.Join(t.TempDir(), "workspaces")})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := listener.Addr().String()
	log := slog.New(slog.DiscardHandler)
	i, err := Start(s, Parts{Logger: log, Redis: client, Store: snapshot.NewMemory(), Listener: listener, Addr: addr})
	require.NoError(t, err)
	defer i.Shutdown()

	front := router.New(client, router.Options{Logger: log, Reach: func(ctx context.Context, o router.Owner) error {
		conn, err := hop.Dial(ctx, o.Addr, o.Fingerprint)
		if err == nil {
			err = conn.Close()
		}
		return err
	}})
	var owner router.Owner
	require.Eventually(t, func() bool {
		owner, err = front.Route(t.Context(), "ada")
		return err == nil
	}, 30*time.Second, 10*time.Millisecond, "it has been dialled, so the fingerprint is the server's")
	require.Equal(t, addr, owner.Addr)
	conn, err := hop.Dial(t.Context(), addr, owner.Fingerprint)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	other, err := hop.NewCertificate()
	require.NoError(t, err)
	_, err = hop.Dial(t.Context(), addr, hop.Fingerprint(other))
	require.ErrorIs(t, err, hop.ErrCertificate)

	plain, err := http.Get("http://" + addr + "/health")
	require.NoError(t, err)
	defer plain.Body.Close()
	require.Equal(t, http.StatusBadRequest, plain.StatusCode, "nothing is served without encryption")
}
