package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func errorOf(kind string) string {
	return fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":"no"},"request_id":"r"}`, kind)
}

// verdicts are what answers say of the credential.
var verdicts = map[string]struct {
	status  int
	body    string
	verdict Verdict
}{
	"200":                   {200, "data: fine\n\n", Proven},
	"201":                   {201, "{}", Proven},
	"redirect":              {307, "", Open},
	"400":                   {400, errorOf("invalid_request_error"), Open},
	"401":                   {401, errorOf("authentication_error"), Rejected},
	"401 without a word":    {401, "", Rejected},
	"403 of authentication": {403, errorOf("authentication_error"), Rejected},
	"403 of permission":     {403, errorOf("permission_error"), Rejected},
	"403 and more behind":   {403, errorOf("permission_error") + strings.Repeat("x", 2*maxErrorBody), Rejected},
	"403 of billing":        {403, errorOf("billing_error"), Open},
	"403 of something else": {403, "<html>not from here</html>", Open},
	"403 without a word":    {403, "", Open},
	"403 that is cut":       {403, errorOf("permission_error")[:40], Open},
	"403 larger than is read": {403, `{"pad":"` + strings.Repeat("x", 2*maxErrorBody) +
		`","error":{"type":"permission_error"}}`, Open},
	"404": {404, errorOf("not_found_error"), Open},
	"429": {429, errorOf("rate_limit_error"), Open},
	"500": {500, errorOf("api_error"), Open},
	"529": {529, errorOf("overloaded_error"), Open},
}

// told is one call of OnAnswer's function.
type told struct {
	credential Credential
	verdict    Verdict
}

func TestBroker_TellsWhatAnAnswerSaysOfItsCredential(t *testing.T) {
	t.Parallel()
	for name, c := range verdicts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			heard := make(chan told, 10)
			b.OnAnswer(func(c Credential, v Verdict) { heard <- told{c, v} })
			g := bound(t, b, "token-1")
			response, err := ask(t, g)
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Len(t, heard, 1, "before the process has the answer")
			require.Equal(t, told{Credential{OAuthToken: "token-1"}, c.verdict}, <-heard)
			if c.status != 307 {
				require.Equal(t, c.status, response.StatusCode)
				require.Equal(t, c.body, string(body), "it gets what the API says")
			}
		})
	}
}

func TestBroker_TellsOfAnAnswerBeforeItsEndAndOfNoneThatIsNotTheAPIs(t *testing.T) {
	t.Parallel()
	heard := make(chan told, 10)
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		require.Equal(t, told{Credential{APIKey: "key-2"}, Proven}, <-heard)
	})
	b.OnAnswer(func(c Credential, v Verdict) { heard <- told{c, v} })
	g := register(t, b)
	response, err := ask(t, g)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	require.Empty(t, heard, "nobody's")
	require.NoError(t, g.Bind(Credential{APIKey: "key-1"}))
	require.NoError(t, g.Rebind(Credential{APIKey: "key-1"}, Credential{APIKey: "key-2"}))
	response, err = ask(t, g)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, response.Body) // which ends when the API has heard
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	b.upstream.Host = "127.0.0.1:1"
	response, err = ask(t, g)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusBadGateway, response.StatusCode)
	require.Empty(t, heard, "the API was not reached")
}

func TestProve_AsksTheAPI(t *testing.T) {
	t.Parallel()
	for name, c := range verdicts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan *http.Request, 1)
			b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
				asked <- r
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			verdict, err := b.Prove(t.Context(), Credential{OAuthToken: "token-1"})
			require.NoError(t, err)
			want := c.verdict
			if c.status == http.StatusForbidden && strings.Contains(c.body, permissionError) {
				want = Open // for this call, which its owner would not have made
			}
			require.Equal(t, want, verdict)
			require.Equal(t, "Bearer token-1", (<-asked).Header.Get("Authorization"))
		})
	}
}

func TestProve_AsksAsAProcessWouldAndForNoMoreThanACount(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	b := newBroker(t, func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	})
	for _, c := range []struct {
		credential          Credential
		bearer, key, oauths string
	}{
		{Credential{OAuthToken: "token-1"}, "Bearer token-1", "", oauthBeta},
		{Credential{APIKey: "key-1"}, "", "key-1", ""},
	} {
		verdict, err := b.Prove(t.Context(), c.credential)
		require.NoError(t, err)
		require.Equal(t, Proven, verdict)
		require.Equal(t, "POST /prefix/v1/messages/count_tokens", got.Method+" "+got.URL.String())
		require.Equal(t, "2023-06-01", got.Header.Get("Anthropic-Version"))
		require.Equal(t, []string{c.bearer, c.key, c.oauths},
			[]string{got.Header.Get("Authorization"), got.Header.Get("X-Api-Key"), got.Header.Get("Anthropic-Beta")})
		require.True(t, json.Valid(body))
	}
}

func TestProve_OnlySomeAskAtATimeAndTheOthersGiveUpWhenTheyHaveTo(t *testing.T) {
	t.Parallel()
	arrived, goOn := make(chan struct{}, 100), make(chan struct{})
	b := newBroker(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or nobody would see the caller go
		arrived <- struct{}{}
		select {
		case <-goOn:
		case <-r.Context().Done():
		}
	}, func(l *limits) { l.proof, l.crowd = patience, patience })
	proven := make(chan Verdict, 100)
	prove := func() {
		verdict, _ := b.Prove(t.Context(), Credential{APIKey: "key"})
		proven <- verdict
	}
	for range production.proofs {
		go prove()
	}
	for range production.proofs {
		<-arrived
	}
	go prove()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	verdict, err := b.Prove(ctx, Credential{APIKey: "key"})
	require.ErrorIs(t, err, ErrTooManyProofs)
	require.Equal(t, Open, verdict)
	require.Empty(t, arrived)
	close(goOn)
	for range production.proofs + 1 {
		require.Equal(t, Proven, <-proven)
	}
}

func TestProve_HasADeadlineAndKeepsTheCredentialToItself(t *testing.T) {
	t.Parallel()
	b := newBroker(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		func(l *limits) { l.proof = 1 })
	verdict, err := b.Prove(t.Context(), Credential{APIKey: "key"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, Open, verdict)

	var calls atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	upstream.Close()
	b = newBroker(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	for _, c := range []Credential{{OAuthToken: "secret\r\nX: y"}, {APIKey: "secret\x00"}, {APIKey: "secret"}} {
		if c.APIKey == "secret" {
			b.upstream.Host = strings.TrimPrefix(upstream.URL, "http://")
		}
		verdict, err = b.Prove(t.Context(), c)
		require.Error(t, err)
		require.Equal(t, Open, verdict)
		require.NotContains(t, err.Error(), "secret")
	}
	require.Zero(t, calls.Load())
}
