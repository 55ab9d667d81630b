package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/pool/server"
)

// pass sends a call that needs no process, as a front does.
func (h *house) pass(method, target, body string, change func(*hop.Claims)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	claims := hop.Claims{Instance: "i1", User: userID("ada"), RequestID: uuid.NewString(), Path: r.URL.Path}
	if change != nil {
		change(&claims)
	}
	r.Header.Set(api.HeaderHop, h.keys.Sign(claims, time.Now()))
	r.Header.Set(api.HeaderRequestID, "req_1")
	r.Header.Set("Authorization", "Bearer "+token("ada"))
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, r)
	return w
}

func TestServer_PassesACallThroughThatNeedsNoProcess(t *testing.T) {
	h := newHouse(t, server.Tuning{})
	var got api.Call
	h.passes = func(_ context.Context, call api.Call) ([]byte, error) {
		got = call
		return []byte(`{"input_tokens":3}`), nil
	}
	for range 2 { // under one id: nothing of it is remembered
		same := func(c *hop.Claims) { c.RequestID = "r" }
		w := h.pass(http.MethodPost, api.PathCountTokens+"?beta=true", `{"model":"m"}`, same)
		require.Equal(t, http.StatusOK, w.Code, w.Body.String())
		require.Equal(t, `{"input_tokens":3}`, w.Body.String())
		require.Equal(t, "1", w.Header().Get(api.HeaderPassed))
		require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	}
	require.Equal(t, []string{"POST", api.PathCountTokens, "beta=true", `{"model":"m"}`},
		[]string{got.Method, got.Path, got.Query, string(got.Body)})
	require.Equal(t, token("ada"), got.Credential.Token())
	require.Equal(t, http.StatusOK, h.pass(http.MethodGet, "/v1/models/claude-haiku-5-5", "", nil).Code)
	require.Equal(t, "/v1/models/claude-haiku-5-5", got.Path)
	require.Zero(t, h.asked(), "no user is acquired")
}

func TestServer_PassesOnlyTheCallsOfFrontsThrough(t *testing.T) {
	h := newHouse(t, server.Tuning{})
	h.passes = func(context.Context, api.Call) ([]byte, error) { t.Error("passed"); return nil, nil }
	for name, c := range map[string]struct {
		change func(*hop.Claims)
		status int
	}{
		"another instance's": {func(c *hop.Claims) { c.Instance = "i2" }, 503},
		"another path's":     {func(c *hop.Claims) { c.Path = api.PathMessages }, 503},
		"no path's":          {func(c *hop.Claims) { c.Path = "" }, 503},
		"another user's":     {func(c *hop.Claims) { c.User = userID("bob") }, 503},
		"another release's":  {func(c *hop.Claims) { c.Version = hop.Version() + 2 }, 503},
	} {
		w := h.pass(http.MethodGet, api.PathModels, "", c.change)
		require.Equal(t, c.status, w.Code, name)
		require.Empty(t, w.Header().Get(api.HeaderPassed), "%s: another instance may be asked", name)
	}
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, api.PathModels, http.NoBody))
	require.Equal(t, http.StatusUnauthorized, w.Code)
	require.Empty(t, w.Header().Get(api.HeaderPassed))
}

func TestServer_WhatTheAPIRefusesIsForTheClient(t *testing.T) {
	h := newHouse(t, server.Tuning{})
	for name, c := range map[string]struct {
		err    error
		status int
		says   string
	}{
		"too many":      {api.RateLimited(time.Second, "too many"), 429, "too many"},
		"no such model": {api.NotFound("no"), 404, "no"},
		"a secret":      {fmt.Errorf("dial 10.0.0.7: %w", errSecret), 503, ""},
	} {
		h.passes = func(context.Context, api.Call) ([]byte, error) { return nil, c.err }
		w := h.pass(http.MethodGet, api.PathModels, "", nil)
		require.Equal(t, c.status, w.Code, name)
		require.Equal(t, "1", w.Header().Get(api.HeaderPassed), name)
		require.Contains(t, w.Body.String(), c.says)
		require.NotContains(t, w.Body.String(), "10.0.0.7")
	}
	h.passes = func(context.Context, api.Call) ([]byte, error) { t.Error("passed"); return nil, nil }
	w := h.pass(http.MethodPost, api.PathCountTokens, strings.Repeat("x", 1001), nil)
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
}

// A call must not hold up an instance that ends: another one can make it.
func TestServer_ItsEndLeavesCallsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, server.Tuning{})
		h.passes = func(ctx context.Context, _ api.Call) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		answer := make(chan *httptest.ResponseRecorder, 1)
		go func() { answer <- h.pass(http.MethodGet, api.PathModels, "", nil) }()
		synctest.Wait()
		h.server.Close()
		for _, w := range []*httptest.ResponseRecorder{<-answer, h.pass(http.MethodGet, api.PathModels, "", nil)} {
			require.Equal(t, http.StatusServiceUnavailable, w.Code)
			require.Empty(t, w.Header().Get(api.HeaderPassed))
		}
	})
}
