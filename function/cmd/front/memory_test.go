package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
	"claudepool/infra/hop"
	"claudepool/infra/testkit"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
	"claudepool/router"
)

// Every token that is sent is a user whom the front knows from then on.
func TestHostile_AFrontThatKnowsManyUsersStaysSmall(t *testing.T) {
	users, most := 2_000, 48<<20
	if os.Getenv("HOSTILE") == "long" {
		users, most = 100_000, 64<<20
	}
	redis := startRedis(t)
	owners := startInstance(t, redis)
	dir, err := pooltest.Build(pooltest.Front)
	require.NoError(t, err)
	addr, err := freeport.Addr()
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(addr)
	front := exec.Command(filepath.Join(dir, "front"))
	front.Env = []string{"PATH=" + os.Getenv("PATH"), "PORT=" + port, "HOP_KEYS=" + strings.Repeat("k", 32),
		"REDIS_URL=redis://" + redis}
	require.NoError(t, front.Start())
	defer func() {
		require.NoError(t, front.Process.Signal(syscall.SIGTERM))
		require.NoError(t, front.Wait())
	}()
	url := "http://" + addr + api.PathMessages
	require.Eventually(t, func() bool { return ask(url, 0) == http.StatusRequestEntityTooLarge }, 30*time.Second,
		10*time.Millisecond)

	began := time.Now()
	var next atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := next.Add(1); i < int64(users); i = next.Add(1) {
				for ask(url, i) != http.StatusRequestEntityTooLarge && t.Context().Err() == nil {
				}
			}
		})
	}
	all.Wait()
	process, err := procfs.NewProc(front.Process.Pid)
	require.NoError(t, err)
	status, err := process.NewStatus()
	require.NoError(t, err)
	t.Logf("%d users, asked for in %s: %d KiB resident, %d KiB at most", users, time.Since(began), status.VmRSS>>10,
		status.VmHWM>>10)
	require.EqualValues(t, users, owners.Load())
	require.Less(t, status.VmRSS, uint64(most))
}

// ask sends a request of a user of its own.
func ask(url string, user int64) int {
	body := fmt.Sprintf(`{"api_key":"sk-ant-api03-%d","messages":[{"role":"user","content":"hi"}]}`, user)
	response, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func startRedis(t *testing.T) string {
	t.Helper()
	addr := testkit.Redis(t)
	client, err := router.NewClient("redis://"+addr, "")
	require.NoError(t, err)
	defer client.Close()
	require.Eventually(t, func() bool { return router.EndSettling(t.Context(), client) == nil }, 30*time.Second,
		10*time.Millisecond)
	return addr
}

// startInstance serves everybody the same error, and counts whom it saw.
func startInstance(t *testing.T, redis string) (users *atomic.Int64) {
	t.Helper()
	certificate, err := hop.NewCertificate()
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var seen sync.Map
	users = &atomic.Int64{}
	server := &http.Server{TLSConfig: hop.ServerTLS(certificate), ReadHeaderTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if body, _ := io.ReadAll(r.Body); len(body) > 0 {
				if _, known := seen.LoadOrStore(string(body), true); !known {
					users.Add(1)
				}
			}
			api.WriteError(w, "", &api.Error{Status: http.StatusRequestEntityTooLarge, Type: "request_too_large", Message: "no"})
		})}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	client, err := router.NewClient("redis://"+redis, "")
	require.NoError(t, err)
	lease := router.NewLease(client, router.LeaseOptions{Logger: slog.New(slog.DiscardHandler),
		Addr:        listener.Addr().String(),
		Fingerprint: hop.Fingerprint(certificate), Wire: hop.Version(), Capacity: 1 << 30, Load: func() (int,
			int) {
			return 0, 0
		}, Evict: func(string) {}})
	ctx, stop := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() { lease.Run(ctx) })
	t.Cleanup(func() {
		stop()
		loop.Wait()
		_ = server.Close()
		_ = client.Close()
	})
	return users
}
