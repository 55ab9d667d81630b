package broker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newBroker returns a Broker in front of an API that is up to the test; change may alter its limits.
func newBroker(t testing.TB, api http.HandlerFunc, change ...func(*limits)) *Broker {
	t.Helper()
	upstream := httptest.NewServer(api)
	t.Cleanup(upstream.Close)
	u, err := url.Parse(upstream.URL + "/prefix")
	require.NoError(t, err)
	b := New(Options{Upstream: u, Logger: slog.New(slog.DiscardHandler)})
	for _, f := range change {
		f(&b.limits)
	}
	t.Cleanup(b.Close)
	return b
}

func register(t testing.TB, b *Broker) *Grant {
	t.Helper()
	g, err := b.Register()
	require.NoError(t, err)
	return g
}

// bound is the Grant of a process whose user's token is given.
func bound(t testing.TB, b *Broker, token string) *Grant {
	t.Helper()
	g := register(t, b)
	require.NoError(t, g.Bind(Credential{OAuthToken: token}))
	return g
}

// ask makes a call as a process does.
func ask(t testing.TB, g *Grant) (*http.Response, error) {
	return call(t, t.Context(), g, http.MethodPost, pathMessages, g.Secret())
}

func call(t testing.TB, ctx context.Context, g *Grant, method, path, secret string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, g.URL()+path, strings.NewReader("{}"))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+secret)
	r.Header.Set("Anthropic-Beta", "one,oauth-2025-04-20,two")
	r.Header.Set("X-Forwarded-For", "10.0.0.1")
	return http.DefaultClient.Do(r)
}

func TestBroker_PutsTheUsersCredentialInPlaceOfTheSecret(t *testing.T) {
	var got *http.Request
	b := newBroker(t, func(_ http.ResponseWriter, r *http.Request) { got = r })
	for name, c := range map[string]Credential{"oauth": {OAuthToken: "token-1"}, "key": {APIKey: "key-1"}} {
		g := register(t, b)
		require.NoError(t, g.Bind(c))
		response, err := call(t, t.Context(), g, http.MethodPost, "/v1/messages?beta=true", g.Secret())
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, http.StatusOK, response.StatusCode, name)
		require.Equal(t, "/prefix/v1/messages?beta=true", got.URL.String())
		require.Empty(t, got.Header.Get("X-Forwarded-For"))
		if name == "oauth" {
			require.Equal(t, "Bearer token-1", got.Header.Get("Authorization"))
			require.Equal(t, "one,oauth-2025-04-20,two", got.Header.Get("Anthropic-Beta"))
			continue
		}
		require.Empty(t, got.Header.Get("Authorization"))
		require.Equal(t, "key-1", got.Header.Get("X-Api-Key"))
		require.Equal(t, "one,two", got.Header.Get("Anthropic-Beta"))
	}
}

func TestBroker_PassesOnNothingElse(t *testing.T) {
	b := newBroker(t, func(http.ResponseWriter, *http.Request) { t.Error("the API must not be reached") })
	g, other, unbound := bound(t, b, "token-1"), bound(t, b, "token-2"), register(t, b)
	for _, c := range []struct {
		at                   *Grant
		method, path, secret string
		status               int
	}{
		{g, http.MethodHead, "/", "", http.StatusOK},
		{g, http.MethodGet, "/v1/messages", g.Secret(), http.StatusNotFound},
		{g, http.MethodPost, "/v1/organizations", g.Secret(), http.StatusNotFound},
		{g, http.MethodPost, "/v1/messages/../files", g.Secret(), http.StatusNotFound},
		{g, http.MethodPost, "/v1/messages", "cp-guessed", http.StatusUnauthorized},
		{g, http.MethodPost, "/v1/messages", "", http.StatusUnauthorized},
		{g, http.MethodPost, "/v1/messages", other.Secret(), http.StatusUnauthorized},
		{unbound, http.MethodPost, "/v1/messages", g.Secret(), http.StatusUnauthorized},
		{unbound, http.MethodPost, "/v1/messages", unbound.Secret(), http.StatusServiceUnavailable},
	} {
		response, err := call(t, t.Context(), c.at, c.method, c.path, c.secret)
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, c.status, response.StatusCode, "%s %s", c.method, c.path)
	}
}

func TestBroker_TheEndOfAProcessEndsItsCalls(t *testing.T) {
	aborted := make(chan struct{})
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "data: begun\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(aborted)
	})
	g := bound(t, b, "token-1")
	response, err := ask(t, g)
	require.NoError(t, err)
	defer response.Body.Close()
	first := make([]byte, 5)
	_, err = io.ReadFull(response.Body, first)
	require.NoError(t, err, "the stream comes through before its end")
	require.Equal(t, 1, g.Open())
	g.Revoke()
	select {
	case <-aborted:
	case <-time.After(5 * time.Second):
		t.Fatal("the call goes on")
	}
	require.Eventually(t, func() bool { return g.Open() == 0 }, 5*time.Second, time.Millisecond)
}

func TestBroker_KeepsRedirectsAndItsOwnAddressToItself(t *testing.T) {
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
	})
	g := bound(t, b, "token-1")
	response, err := ask(t, g)
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, http.StatusBadGateway, response.StatusCode)

	text := []byte("check your gateway (" + strings.TrimPrefix(g.URL(), "http://") + ") or " + g.URL() + "/v1")
	require.Equal(t, "check your gateway (the API) or the API/v1", string(g.Scrub(text)))
}

func TestGrant_IsReboundOnlyWithItsPresentCredential(t *testing.T) {
	var got string
	b := newBroker(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("Authorization") })
	before, now, other := Credential{OAuthToken: "token-1"}, Credential{OAuthToken: "token-2"},
		Credential{OAuthToken: "token-3"}
	g := register(t, b)
	require.ErrorIs(t, g.Rebind(before, now), ErrBound, "nobody's")
	require.NoError(t, g.Bind(before))
	require.ErrorIs(t, g.Rebind(other, now), ErrBound)
	require.NoError(t, g.Rebind(before, now))
	require.NoError(t, g.Rebind(before, now), "to say it again does no harm")
	response, err := ask(t, g)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, "Bearer token-2", got)
}

func TestGrant_IsBoundOnce(t *testing.T) {
	b := newBroker(t, func(http.ResponseWriter, *http.Request) {})
	g := register(t, b)
	require.NoError(t, g.Bind(Credential{OAuthToken: "token-1"}))
	require.NoError(t, g.Bind(Credential{OAuthToken: "token-1"}))
	require.ErrorIs(t, g.Bind(Credential{OAuthToken: "token-2"}), ErrBound)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", Credential{OAuthToken: "token-1"},
		Credential{OAuthToken: "token-1"}, Credential{OAuthToken: "token-1"}, Credential{OAuthToken: "token-1"}), "token-1")
}

// A call that began when the process was nobody's is answered as such, whoever the process becomes.
func TestGrant_IsNotBoundWhileACallIsUnderWay(t *testing.T) {
	b := newBroker(t, func(http.ResponseWriter, *http.Request) { t.Error("the API must not be reached") })
	g := register(t, b)
	body, finish := io.Pipe()
	r, err := http.NewRequest(http.MethodPost, g.URL()+"/v1/messages", body)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+g.Secret())
	type outcome struct {
		text []byte
		err  error
	}
	answer := make(chan outcome, 1)
	go func() {
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			answer <- outcome{nil, err}
			return
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		answer <- outcome{text, err}
	}()
	require.Eventually(t, func() bool { return g.Open() == 1 }, time.Minute, time.Millisecond)
	require.ErrorIs(t, g.Bind(Credential{OAuthToken: "token-1"}), ErrBusy)
	_, err = io.WriteString(finish, `{"model":"m","stream":true}`)
	require.NoError(t, err)
	require.NoError(t, finish.Close())
	got := <-answer
	require.NoError(t, got.err)
	require.Contains(t, string(got.text), "msg_warm")
	require.Eventually(t, func() bool { return g.Open() == 0 }, time.Minute, time.Millisecond)
	require.NoError(t, g.Bind(Credential{OAuthToken: "token-1"}))
}

// rewriter shouts.
type rewriter struct{}

func (rewriter) Reader(body io.Reader) io.Reader {
	text, _ := io.ReadAll(body)
	return bytes.NewReader(bytes.ToUpper(text))
}

func (rewriter) ReplaceString(header string) string { return strings.ReplaceAll(header, "two", "TWO") }

func TestBroker_ChangesCallsOnTheirWayToTheAPI(t *testing.T) {
	var header http.Header
	var body []byte
	b := newBroker(t, func(_ http.ResponseWriter, r *http.Request) {
		header = r.Header
		body, _ = io.ReadAll(r.Body)
	})
	g := bound(t, b, "token-1")
	send := func() {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL()+pathMessages, strings.NewReader(`{"a":1}`))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+g.Secret())
		r.Header.Set("X-Session", "one two")
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, 200, answer.StatusCode)
	}
	send()
	require.Equal(t, `{"a":1}`, string(body))
	require.Equal(t, "one two", header.Get("X-Session"))
	g.Rewrite(rewriter{})
	send()
	require.Equal(t, `{"A":1}`, string(body))
	require.Equal(t, "one TWO", header.Get("X-Session"))
	require.Equal(t, "7", header.Get("Content-Length"))
	require.Equal(t, "Bearer token-1", header.Get("Authorization"))
}
