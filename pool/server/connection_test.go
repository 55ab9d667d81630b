package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/server"
)

// connection is a client's only one to a server.
type connection struct {
	h         *house
	listening *http.Server
	transport *http.Transport
	accepted  chan net.Conn
	gone      chan struct{}
	dials     int
}

func (h *house) connect(handler http.Handler) *connection {
	c := &connection{h: h, accepted: make(chan net.Conn), gone: make(chan struct{})}
	c.listening = &http.Server{Handler: handler, ReadHeaderTimeout: time.Hour}
	c.transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		c.dials++
		ours, theirs := net.Pipe()
		c.accepted <- theirs
		return ours, nil
	}}
	go func() { _ = c.listening.Serve(c) }()
	return c
}

func (c *connection) Accept() (net.Conn, error) {
	select {
	case conn := <-c.accepted:
		return conn, nil
	case <-c.gone:
		return nil, net.ErrClosed
	}
}

func (c *connection) Close() error   { close(c.gone); return nil }
func (c *connection) Addr() net.Addr { return &net.UnixAddr{} }

// end closes the connection, and requires that there was one.
func (c *connection) end() {
	c.transport.CloseIdleConnections()
	require.NoError(c.h.t, c.listening.Close())
	require.Equal(c.h.t, 1, c.dials, "all came on one connection")
}

func (c *connection) ask() reply {
	response, err := c.transport.RoundTrip(c.h.request(c.h.t.Context(), ask{}))
	require.NoError(c.h.t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(c.h.t, err)
	return parse(response.StatusCode, response.Header, string(body))
}

// The turn of the first request fails, which sets its connection a deadline. net/http lifts it at the response's end.
func TestServer_AWriteDeadlineNeverHitsTheNextRequestOfItsConnection(t *testing.T) {
	for name, failing := range map[string]script{"before its stream": fails(errSecret),
		"in its stream": func(_ context.Context, t *turn) error { t.sent(); return errSecret }} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			c := h.connect(h.server)
			defer c.end()
			long := strings.Repeat("long ", 20_000)
			h.next(failing)
			h.next(says(long, long, long))
			require.Contains(t, c.ask().body, "could not be made ready", name)
			time.Sleep(2 * server.LastWords)
			c.ask().answered(t, long, long, long)
		})
	}
}

// tardy is a ResponseWriter that takes its time to set a deadline, and sets a short one.
type tardy struct{ http.ResponseWriter }

const (
	tardiness     = 50 * time.Millisecond
	tardyDeadline = 300 * time.Millisecond
)

func (w tardy) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w tardy) SetWriteDeadline(time.Time) error {
	time.Sleep(tardiness)
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(tardyDeadline))
}

// A turn's context may end with its last batch. This is in real time, as a lock that is waited for stops the other.
func TestServer_AWriteDeadlineThatIsBeingSetHoldsUpTheEndOfItsRequest(t *testing.T) {
	t.Parallel()
	h := newHouse(t, server.Tuning{})
	c := h.connect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.server.ServeHTTP(tardy{w}, r) }))
	defer c.end()
	h.next(func(ctx context.Context, t *turn) error {
		t.sent()
		ctx, cut := context.WithCancelCause(ctx)
		cut(errors.New("the turn took too long"))
		defer time.Sleep(tardiness / 2) // it is being set now
		return t.say(ctx, "one")
	})
	h.next(func(ctx context.Context, t *turn) error {
		t.sent()
		time.Sleep(2 * tardyDeadline)
		return t.say(ctx, "two")
	})
	c.ask().answered(t, "one")
	c.ask().answered(t, "two")
}
