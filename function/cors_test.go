package function

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/function/page"
	"claudepool/infra/snapshot"
	"claudepool/pool/api"
)

// newOpenFront returns a front whose users' pages may be of these origins, and which needs a key.
func newOpenFront(t *testing.T, origins ...string) string {
	t.Helper()
	f, _, r := newFront(t, events(api.Done))
	opts := f.opts
	opts.AllowedOrigins, opts.APIKeys, opts.Router = origins, apiKeysOf(t, "key"), r
	opts.View, opts.Client = snapshot.NewView(snapshot.NewMemory(), opts.Logger), NewClient()
	open := New(opts)
	t.Cleanup(func() { open.Drain(0) })
	server := httptest.NewServer(open)
	t.Cleanup(server.Close)
	return server.URL
}

var ofUsers = []string{api.PathMessages, api.PathResume, api.PathAnswer, api.PathDelete, api.PathConversations,
	api.PathCountTokens, api.PathModels, "/v1/models/m", streamPath, sendPath}

func preflight(t *testing.T, url, origin, asks string) http.Header {
	t.Helper()
	response, body := do(t, http.MethodOptions, url, "", "Origin", origin, "Access-Control-Request-Method", "POST",
		"Access-Control-Request-Headers", asks)
	require.Empty(t, response.Header.Get("Access-Control-Allow-Credentials"))
	if response.Header.Get("Access-Control-Allow-Origin") != "" {
		require.Equal(t, http.StatusNoContent, response.StatusCode, body)
	}
	return response.Header
}

func TestFront_PagesOfAllowedOriginsGetIn(t *testing.T) {
	const page = "https://app.example.com"
	url := newOpenFront(t, "http://localhost:3000", page)
	for _, path := range ofUsers {
		h := preflight(t, url+path, page, "authorization,content-type")
		require.Equal(t, page, h.Get("Access-Control-Allow-Origin"), path)
		require.Equal(t, "authorization,content-type", h.Get("Access-Control-Allow-Headers"))
		require.Equal(t, "POST", h.Get("Access-Control-Allow-Methods"))
		require.Contains(t, strings.Join(h.Values("Vary"), ","), "Origin")
	}
	for _, key := range []string{"key", "wrong"} { // an error has to be readable too
		response, _ := do(t, http.MethodPost, url+api.PathMessages, question, "x-api-key", key, "Origin", page)
		require.Equal(t, page, response.Header.Get("Access-Control-Allow-Origin"))
		require.Contains(t, response.Header.Values("Vary"), "Origin")
		require.Empty(t, response.Header.Get("Access-Control-Allow-Credentials"))
		shown := response.Header.Get("Access-Control-Expose-Headers")
		for _, name := range []string{"Request-Id", "Retry-After", "X-Should-Retry", "X-Claudepool-Turn"} {
			require.Contains(t, shown, name)
		}
	}
}

func TestFront_PagesOfOtherOriginsDont(t *testing.T) {
	url := newOpenFront(t, "https://app.example.com")
	for _, origin := range []string{"https://evil.example", "http://app.example.com", "https://app.example.com:8443",
		"https://app.example.com.evil.example", "https://evil.app.example.com", "null",
		"https://app.example.com/", "*"} {
		h := preflight(t, url+api.PathMessages, origin, "authorization")
		response, _ := do(t, http.MethodPost, url+api.PathMessages, question, "x-api-key", "key", "Origin", origin)
		for _, h := range []http.Header{h, response.Header} {
			for name := range h {
				require.NotContains(t, name, "Access-Control", origin)
			}
			require.Contains(t, strings.Join(h.Values("Vary"), ","), "Origin", "caches must not mix them up")
		}
	}
}

func TestFront_APreflightIsToldOnlyHeadersOfTheList(t *testing.T) {
	url := newOpenFront(t, "https://app.example.com")
	for asks, allowed := range map[string]string{
		"anthropic-beta,anthropic-dangerous-direct-browser-access,anthropic-version,authorization,content-type," +
			"idempotency-key,last-event-id,traceparent,x-api-key,x-claudepool-session,x-stainless-retry-count": "*",
		"X-Api-Key, Content-Type":                      "x-api-key,content-type",
		"authorization,x-evil":                         "authorization",
		"cookie":                                       "",
		"x-stainlessly,x-claudepoolx,anthropicx":       "",
		"x-claudepool-a b,x-claudepool-c\t(,x-api-key": "x-api-key",
		"": "",
	} {
		if allowed == "*" {
			allowed = asks
		}
		h := preflight(t, url+api.PathMessages, "https://app.example.com", asks)
		require.Equal(t, allowed, h.Get("Access-Control-Allow-Headers"), asks)
	}
}

func TestFront_AllOriginsAreAStar(t *testing.T) {
	url := newOpenFront(t, "*")
	allowed := func(origin string) string {
		return preflight(t, url+api.PathMessages, origin, "x-api-key").Get("Access-Control-Allow-Origin")
	}
	require.Equal(t, "*", allowed("https://any.example"))
	response, _ := do(t, http.MethodPost, url+api.PathMessages, question, "x-api-key", "key",
		"Origin", "https://any.example")
	require.Equal(t, "*", response.Header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, response.Header.Values("Vary"), "Origin")
	require.Empty(t, allowed("null"), "who doesn't say where it comes from")
}

func TestFront_WhatIsTheOperatorsIsForNoOtherSite(t *testing.T) {
	url := newOpenFront(t, "*")
	for _, path := range []string{pathStats, page.Path, "/health", "/", "/nowhere"} {
		for _, method := range []string{http.MethodOptions, http.MethodGet} {
			response, _ := do(t, method, url+path, "", "Origin", "https://any.example",
				"Access-Control-Request-Method", "GET", "x-api-key", "key")
			for name := range response.Header {
				require.NotContains(t, name, "Access-Control", "%s %s", method, path)
			}
		}
	}
}
