package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/function"
	"claudepool/infra/hop"
	"claudepool/infra/snapshot"
	"claudepool/router"
)

// nobody is a router that knows no instance.
type nobody struct{}

func (nobody) Route(ctx context.Context, _ string) (router.Owner, error) {
	<-ctx.Done()
	return router.Owner{}, router.ErrUnavailable
}

func (n nobody) RouteTogether(ctx context.Context, user, _ string) (router.Owner, error) {
	return n.Route(ctx, user)
}
func (nobody) Misdirected(string, router.Owner)                  {}
func (nobody) Unreachable(context.Context, string, router.Owner) {}
func (nobody) Answered(context.Context, router.Owner) bool       { return false }
func (nobody) Sample(int) []router.Owner                         { return nil }

// A function of a name can be registered once, so this is one test.
func TestServe_TheFrameworksHandlerOnAServerThatSlowClientsCantHoldUp(t *testing.T) {
	t.Setenv("FUNCTION_TARGET", "")
	t.Setenv("CLOUD_RUN_TIMEOUT_SECONDS", "6")
	keys, err := hop.ParseKeys(strings.Repeat("k", 32))
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	front := function.New(function.Options{Logger: log, Router: nobody{}, Client: function.NewClient(),
		View: snapshot.NewView(snapshot.NewMemory(), log), Keys: keys, MaxBodyBytes: 1 << 20})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := listener.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, log, front, newServer(log), listener) }()

	response, err := http.Get("http://" + addr + "/health")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)

	t.Run("headers that come slowly", func(t *testing.T) {
		hasty := newServer(log) // another one, that has time for no test else
		require.Positive(t, hasty.ReadHeaderTimeout)
		hasty.ReadHeaderTimeout = 500 * time.Millisecond
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go func() { _ = hasty.Serve(listener) }()
		defer hasty.Close()
		conn, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		begun := time.Now()
		_, err = io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		for err == nil && time.Since(begun) < 30*time.Second {
			time.Sleep(20 * time.Millisecond)
			_, err = conn.Write([]byte("x"))
		}
		require.Error(t, err, "the connection is still open")
	})
	t.Run("headers that are too large", func(t *testing.T) {
		r, err := http.NewRequest(http.MethodGet, "http://"+addr+"/health", nil)
		require.NoError(t, err)
		r.Header.Set("X-Large", strings.Repeat("x", 100<<10))
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer response.Body.Close()
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, response.StatusCode)
	})
	t.Run("the framework's time limit holds", func(t *testing.T) {
		body := `{"api_key":"sk-ant-api03-x","messages":[{"role":"user","content":"Hi"}]}`
		response, err := http.Post("http://"+addr+"/v1/messages/pooled", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
		require.Contains(t, string(text), "longer than the service allows")
	})
	stop()
	require.NoError(t, <-ended)
	_, err = net.Dial("tcp", addr)
	require.Error(t, err)
}
