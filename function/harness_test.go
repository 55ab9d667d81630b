package function

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/infra/snapshot"
	"claudepool/pool/api"
	"claudepool/router"
)

// route is a Router that sends everybody to the instance at the front of its list.
type route struct {
	mu          sync.Mutex
	owners      []router.Owner
	err         error
	misdirected int
	unreachable int
	answered    bool // who is gone had answered all
	together    []string
}

func (r *route) Route(context.Context, string) (router.Owner, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return router.Owner{}, r.err
	}
	return r.owners[0], nil
}

func (r *route) RouteTogether(ctx context.Context, user, former string) (router.Owner, error) {
	r.mu.Lock()
	r.together = append(r.together, user+" "+former)
	r.mu.Unlock()
	return r.Route(ctx, user)
}

func (r *route) next() {
	if len(r.owners) > 1 {
		r.owners = r.owners[1:]
	}
}

func (r *route) Misdirected(string, router.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.misdirected++
	r.next()
}

func (r *route) Unreachable(context.Context, string, router.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unreachable++
	if len(r.owners) < 2 {
		r.err = router.ErrUnavailable
	}
	r.next()
}

func (r *route) Sample(n int) []router.Owner {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.owners[:min(n, len(r.owners))]
}

func (r *route) Answered(context.Context, router.Owner) bool { return r.answered }

const question = `{"oauth_credentials":{"access_token":"sk-ant-oat01-secret"},"messages":[{"role":"user",` +
	`"content":"hi"}]}`

// newInstance serves the handler as an instance does.
func newInstance(t *testing.T, h http.Handler) router.Owner {
	t.Helper()
	owner, _ := newInstanceServer(t, h)
	return owner
}

func newInstanceServer(t *testing.T, h http.Handler) (router.Owner, *httptest.Server) {
	t.Helper()
	certificate, err := hop.NewCertificate()
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(h)
	s.TLS = hop.ServerTLS(certificate)
	s.StartTLS()
	t.Cleanup(s.Close)
	return router.Owner{Instance: "i1", Addr: s.Listener.Addr().String(), Fingerprint: hop.Fingerprint(certificate)}, s
}

// newFront returns a served Front whose instances are the handlers, asked in this order.
func newFront(t *testing.T, instances ...http.HandlerFunc) (*Front, string, *route) {
	t.Helper()
	r := &route{}
	for _, h := range instances {
		r.owners = append(r.owners, newInstance(t, h))
	}
	keys, err := hop.ParseKeys("0123456789abcdef0123456789abcdef")
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	f := New(Options{Logger: log, Router: r, Client: NewClient(), View: snapshot.NewView(snapshot.NewMemory(), log),
		Keys: keys, MaxBodyBytes: 32 << 20})
	t.Cleanup(func() { f.Drain(0) })
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server.URL, r
}

func eventuallyRunning(t *testing.T, f *Front, n int) {
	t.Helper()
	require.Eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.running == n }, 30*time.Second,
		time.Millisecond)
}

func post(t *testing.T, url, body string) (int, http.Header, string) {
	t.Helper()
	response, err := http.Post(url+"/v1/messages/pooled", "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, response.Header, string(text)
}

func events(parts ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set(api.HeaderPID, "7")
		for _, p := range parts {
			fmt.Fprint(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

func refuse(status int, notStarted bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if notStarted {
			w.Header().Set(api.HeaderNotStarted, "1")
		}
		api.WriteError(w, "", &api.Error{Status: status, Type: "api_error", Message: "no"})
	}
}
