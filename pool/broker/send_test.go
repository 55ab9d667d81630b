package broker

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func saysJSON(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestSend_MakesTheClientsCallWithItsCredentialAndProvesNothing(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("X-Internal", "secret")
		w.Header().Set("Retry-After", "7")
		saysJSON(200, `{"input_tokens":3}`)(w, r)
	})
	b.OnAnswer(func(Credential, Verdict) { t.Error("it proves nothing") })
	for _, c := range []struct {
		credential         Credential
		bearer, key, betas string
	}{
		{Credential{OAuthToken: "token-1"}, "Bearer token-1", "", "one,two,oauth-2025-04-20"},
		{Credential{APIKey: "key-1"}, "", "key-1", "one,two"},
	} {
		header := http.Header{"Anthropic-Version": {"2026-10-21"}, "Anthropic-Beta": {"one,two"}}
		answer, err := b.Send(t.Context(), c.credential, Call{Method: http.MethodPost, Path: pathCountTokens,
			Query: "beta=true", Header: header, Body: []byte(`{"x":1}`)})
		require.NoError(t, err)
		require.Equal(t, Answer{200, "7", []byte(`{"input_tokens":3}`)}, answer)
		require.Equal(t, "POST /prefix/v1/messages/count_tokens?beta=true", got.Method+" "+got.URL.String())
		require.Equal(t, `{"x":1}`, string(body))
		for name, want := range map[string]string{"Authorization": c.bearer, "X-Api-Key": c.key, "Anthropic-Beta": c.betas,
			"Anthropic-Version": "2026-10-21", "Content-Type": "application/json"} {
			require.Equal(t, want, got.Header.Get(name), name)
		}
	}
	_, err := b.Send(t.Context(), Credential{OAuthToken: "token-1"}, Call{Method: http.MethodGet, Path: "/v1/models/m"})
	require.NoError(t, err)
	require.Equal(t, "GET /prefix/v1/models/m", got.Method+" "+got.URL.String())
	require.Equal(t, oauthBeta, got.Header.Get("Anthropic-Beta"))
}

func TestSend_OfAnswersOnlyJSONOfBoundedLengthIsPassedOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		api  http.HandlerFunc
		good bool
	}{
		"an answer":      {saysJSON(200, `{}`), true},
		"an error":       {saysJSON(404, errorOf("not_found_error")), true},
		"a long one":     {saysJSON(200, `"`+strings.Repeat("x", maxAnswer-2)+`"`), true},
		"too long a one": {saysJSON(200, `"`+strings.Repeat("x", maxAnswer-1)+`"`), false},
		"cut":            {saysJSON(200, `{"data":`), false},
		"empty":          {saysJSON(200, ``), false},
		"HTML":           {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, false},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			saysJSON(307, `{}`)(w, r)
		}, false},
		"a broken connection": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, c.api)
			answer, err := b.Send(t.Context(), Credential{APIKey: "key"}, Call{Method: http.MethodGet, Path: "/v1/models"})
			if c.good {
				require.NoError(t, err)
				require.NotEmpty(t, answer.Body)
				return
			}
			require.ErrorIs(t, err, ErrNoAnswer)
			require.Empty(t, answer)
		})
	}
}

func TestSend_OnlySomeAreUnderWayAndEachHasADeadline(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 100)
	b := newBroker(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	}, func(l *limits) { l.send = patience })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 100)
	send := func() {
		_, err := b.Send(ctx, Credential{APIKey: "key"}, Call{Method: http.MethodGet, Path: "/v1/models"})
		ended <- err
	}
	for range production.sends {
		go send()
	}
	for range production.sends {
		<-arrived
	}
	send()
	require.ErrorIs(t, <-ended, ErrManyCalls)
	cancel()
	for range production.sends {
		require.ErrorIs(t, <-ended, context.Canceled)
	}
	require.Empty(t, arrived)

	b.limits.send = 10 * time.Millisecond
	_, err := b.Send(t.Context(), Credential{APIKey: "secret-key"}, Call{Method: http.MethodGet, Path: "/v1/models"})
	require.ErrorIs(t, err, ErrNoAnswer)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotContains(t, err.Error(), "secret")
}
