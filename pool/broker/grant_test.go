package broker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what should take an instant.
const patience = time.Minute

// long are limits that nothing in a test comes up against in time.
func long(l *limits) { l.header, l.body, l.idle, l.ending = time.Hour, time.Hour, time.Hour, time.Hour }

// dial connects to the grant's port as its process may.
func dial(t testing.TB, g *Grant) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL(), "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// head makes the call that the CLI warms a connection by.
func head(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := io.WriteString(conn, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
}

// requireAnswer requires that the connection's next answer is of that status.
func requireAnswer(t testing.TB, conn net.Conn, status int) {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodHead})
	require.NoError(t, err)
	require.Equal(t, status, response.StatusCode)
}

// requireEnd requires that nothing comes but the connection's end.
func requireEnd(t testing.TB, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestGrant_RevokeFreesThePortAndEndsItsConnections(t *testing.T) {
	t.Parallel()
	b := newBroker(t, nil, long)
	g, other := register(t, b), register(t, b)
	silent, idle := dial(t, g), dial(t, g)
	head(t, idle)
	requireAnswer(t, idle, http.StatusOK)
	theirs := dial(t, other)
	g.Revoke()
	requireEnd(t, silent)
	requireEnd(t, idle)
	again, err := net.Listen("tcp", g.listener.Addr().String())
	require.NoError(t, err, "the port is free")
	require.NoError(t, again.Close())
	head(t, theirs)
	requireAnswer(t, theirs, http.StatusOK)
	g.Revoke()

	b.Close()
	requireEnd(t, theirs)
	_, err = b.Register()
	require.ErrorIs(t, err, ErrClosed)
}

func TestGrant_ConnectionsBeyondTheBoundWaitAndCostOthersNothing(t *testing.T) {
	t.Parallel()
	b := newBroker(t, nil, long)
	g, other := register(t, b), register(t, b)
	served := make([]net.Conn, production.connections)
	for i := range served {
		served[i] = dial(t, g)
		head(t, served[i])
		requireAnswer(t, served[i], http.StatusOK)
	}
	waiting := make([]net.Conn, production.waiting)
	for i := range waiting {
		waiting[i] = dial(t, g)
		head(t, waiting[i])
	}
	theirs := dial(t, other)
	head(t, theirs)
	requireAnswer(t, theirs, http.StatusOK)
	require.NoError(t, waiting[0].SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err := waiting[0].Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "none is served while all places are taken")
	require.NoError(t, waiting[0].SetReadDeadline(time.Time{}))
	for i, conn := range waiting { // as they came
		require.NoError(t, served[i].Close())
		requireAnswer(t, conn, http.StatusOK)
	}
}

func TestGrant_TheKernelKeepsNoMoreConnectionsThanMayWait(t *testing.T) {
	t.Parallel()
	g := register(t, newBroker(t, nil, long))
	address, most := strings.TrimPrefix(g.URL(), "http://"), production.connections+production.waiting+1 // Linux adds one
	connected := 0
	for range most + 10 {
		conn, err := net.DialTimeout("tcp", address, 500*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
		connected++
	}
	require.LessOrEqual(t, connected, most)
}

// What uses up the ports that connections come from leaves the next process's to it.
func TestGrant_NoConnectionComesFromTheAddressOfItsPort(t *testing.T) {
	t.Parallel()
	g := register(t, newBroker(t, nil))
	conn := dial(t, g)
	require.False(t, conn.LocalAddr().(*net.TCPAddr).IP.Equal(g.listener.Addr().(*net.TCPAddr).IP))
}

func TestGrant_IdleAndTricklingConnectionsEnd(t *testing.T) {
	t.Parallel()
	const soon = 100 * time.Millisecond
	api := func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	post := func(g *Grant) string {
		return "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nAuthorization: Bearer " + g.Secret() +
			"\r\n\r\n"
	}
	for name, c := range map[string]struct {
		limit  func(*limits)
		begin  func(g *Grant) string
		drip   string
		status int // nothing if the connection just ends
	}{
		"silent": {limit: func(l *limits) { l.header = soon }},
		"a header": {limit: func(l *limits) { l.header = soon },
			begin: func(*Grant) string { return "HEAD / HTTP/1.1\r\n" }, drip: "A: b\r\n"},
		"idle": {limit: func(l *limits) { l.idle = soon },
			begin: func(*Grant) string { return "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" }, status: http.StatusOK},
		"a body": {limit: func(l *limits) { l.body = soon }, begin: post, drip: "{",
			status: http.StatusRequestTimeout},
		"a stranger's own": {limit: func(l *limits) { l.body = soon }, begin: func(*Grant) string { return post(&Grant{}) },
			drip: "{", status: http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := bound(t, newBroker(t, api, long, c.limit), "token-1")
			conn := dial(t, g)
			if c.begin != nil {
				_, err := io.WriteString(conn, c.begin(g))
				require.NoError(t, err)
			}
			dripping, stop := context.WithCancel(t.Context())
			defer stop()
			go func() {
				for dripping.Err() == nil && c.drip != "" {
					if _, err := io.WriteString(conn, c.drip); err != nil {
						return
					}
					time.Sleep(soon / 10)
				}
			}()
			said, err := io.ReadAll(conn)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "%s", said)
			if c.status == 0 {
				require.NotContains(t, string(said), "200")
			} else {
				require.True(t, strings.HasPrefix(string(said), fmt.Sprintf("HTTP/1.1 %d ", c.status)), "%s", said)
			}
			require.Eventually(t, func() bool { return g.Open() == 0 }, patience, time.Millisecond)
		})
	}
}

func TestGrant_AnAnswerMayTakeLongerThanItsCall(t *testing.T) {
	t.Parallel()
	const limit = 50 * time.Millisecond
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for range 3 {
			select {
			case <-time.After(2 * limit):
			case <-r.Context().Done():
				return
			}
			fmt.Fprint(w, "more ")
			_ = http.NewResponseController(w).Flush()
		}
	}, long, func(l *limits) { l.body = limit })
	g := bound(t, b, "token-1")
	for name, body := range map[string]io.Reader{"with a body": strings.NewReader("{}"), "without": http.NoBody} {
		r, err := http.NewRequest(http.MethodPost, g.URL()+pathMessages, body)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+g.Secret())
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err, name)
		said, err := io.ReadAll(response.Body)
		require.NoError(t, err, name)
		require.NoError(t, response.Body.Close())
		require.Equal(t, "more more more ", string(said), name)
	}
}

func BenchmarkRegister(b *testing.B) {
	broker := newBroker(b, nil)
	for b.Loop() {
		register(b, broker).Revoke()
	}
}
