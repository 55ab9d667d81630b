package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

const asksTokens = `{"model":"claude-haiku-5-5","messages":[{"role":"user","content":%q}]}`

// call makes a call that needs no process, with ada's key unless the headers, given as names and values, say otherwise.
func (d *deployment) call(front int, method, target, body string, headers ...string) (int, http.Header, string) {
	r, err := http.NewRequest(method, d.fronts[front]+target, strings.NewReader(body))
	if err != nil {
		return 0, nil, err.Error()
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Api-Key", "sk-ant-api03-caller")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := d.http.Do(r)
	if err != nil {
		return 0, nil, err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, string(text)
}

// awaitCalls waits until the front has learned of an instance that passes calls through.
func (d *deployment) awaitCalls(front int) {
	d.t.Helper()
	require.Eventually(d.t, func() bool {
		status, _, _ := d.call(front, http.MethodGet, api.PathModels, "")
		return status == http.StatusOK
	}, patience, 50*time.Millisecond)
}

func TestDeployment_CallsThatNeedNoProcessGoThroughToTheAPI(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	d := prepare(t, cli)
	d.bin = programs(t)
	d.env = append(d.env, "TRUSTED_PROXIES=1", "ALLOWED_ORIGINS=https://app.example.com")
	d.instance()
	d.front()
	d.front()
	d.placeable(1)
	d.awaitCalls(0)
	d.awaitCalls(1)
	d.api.Forget()

	t.Run("as the API answers", func(t *testing.T) { testCalls(t, d) })
	t.Run("and leave nothing behind", func(t *testing.T) { testNothingIsLeft(t, d) })
	t.Run("in a flood", func(t *testing.T) { testFlood(t, d) })
}

func testCalls(t *testing.T, d *deployment) {
	status, header, body := d.call(0, http.MethodPost, api.PathCountTokens+"?beta=true", fmt.Sprintf(asksTokens, "hi"),
		"Authorization", "Bearer sk-ant-oat01-caller", "X-Api-Key", "", "anthropic-beta", "one",
		"Origin", "https://app.example.com")
	require.Equal(t, http.StatusOK, status, body)
	require.JSONEq(t, `{"input_tokens":10}`, body)
	require.NotEmpty(t, header.Get("request-id"))
	require.Equal(t, "https://app.example.com", header.Get("Access-Control-Allow-Origin"))
	sent := d.api.Counts()[0]
	require.Equal(t, api.PathCountTokens+"?beta=true", sent.URL)
	require.Equal(t, "Bearer sk-ant-oat01-caller", sent.Header.Get("Authorization"))
	require.Equal(t, "one,oauth-2025-04-20", sent.Header.Get("Anthropic-Beta"))

	var ids []string
	for page, more := "?limit=2", true; more; {
		status, _, body = d.call(1, http.MethodGet, api.PathModels+page, "", "anthropic-version", "2026-10-21")
		require.Equal(t, http.StatusOK, status, body)
		for _, m := range gjson.Get(body, "data.#.id").Array() {
			ids = append(ids, m.Str)
		}
		page, more = "?limit=2&after_id="+gjson.Get(body, "last_id").Str, gjson.Get(body, "has_more").Bool()
	}
	require.Equal(t, pooltest.Models, ids)
	status, _, body = d.call(1, http.MethodGet, api.PathModels+"?limit=1&before_id="+ids[2], "", "anthropic-version",
		"2026-10-21")
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, ids[1], gjson.Get(body, "data.0.id").Str)
	require.True(t, gjson.Get(body, "has_more").Bool())
	status, _, body = d.call(0, http.MethodGet, api.PathModels+"/"+ids[0], "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, ids[0], gjson.Get(body, "id").Str)
	for _, c := range []struct {
		method, target, text, kind, retry string
		status                            int
	}{
		{http.MethodGet, api.PathModels + "/no-such-model", "", "not_found_error", "false", 404},
		{http.MethodPost, api.PathCountTokens, "[[status=529]]", "overloaded_error", "true", 529},
		{http.MethodPost, api.PathCountTokens, "[[status=429]]", "rate_limit_error", "true", 429},
		{http.MethodPost, api.PathCountTokens, "[[status=401]]", "authentication_error", "false", 401},
		{http.MethodPost, api.PathCountTokens, "[[status=400]]", "invalid_request_error", "false", 400},
	} {
		status, header, body := d.call(0, c.method, c.target, fmt.Sprintf(asksTokens, c.text))
		require.Equal(t, c.status, status, body)
		require.Equal(t, "error", gjson.Get(body, "type").Str)
		require.Equal(t, c.kind, gjson.Get(body, "error.type").Str)
		require.Equal(t, header.Get("request-id"), gjson.Get(body, "request_id").Str)
		require.Equal(t, c.retry, header.Get("x-should-retry"))
		require.Equal(t, c.retry == "true", header.Get("retry-after") != "")
	}
}

// testNothingIsLeft: who has made such calls is nobody's user, and no credential was proven.
func testNothingIsLeft(t *testing.T, d *deployment) {
	for _, token := range []string{"sk-ant-api03-caller", "sk-ant-oat01-caller"} {
		digest := sha256.Sum256([]byte(token))
		user := hex.EncodeToString(digest[:8])
		for _, key := range d.redis.Keys(t.Context(), "*").Val() {
			require.NotContains(t, key, user)
		}
		for _, setting := range d.env {
			root, found := strings.CutPrefix(setting, "WORKSPACES_ROOT=")
			if !found {
				continue
			}
			require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
				require.NotContains(t, path, user)
				return err
			}))
		}
		require.Zero(t, d.said(token))
	}
	require.Empty(t, d.api.Calls(), "no turn was run")
	eventuallyStats(t, d.client(0), func(s api.Stats) bool { return len(s.Instances) == 1 && len(s.ActiveUsers) == 0 })
}

// testFlood has many addresses make more calls through two fronts than an instance passes through at a time.
func testFlood(t *testing.T, d *deployment) {
	const callers, most = 200, 32
	slow := fmt.Sprintf(asksTokens, "[[latency=500ms]]")
	requireAnswer(t, d.ask(0, "ada", "before"), "before")
	ended := make(chan struct{})
	var all, watch sync.WaitGroup
	var served, refused atomic.Int64
	open := 0
	watch.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(time.Millisecond):
				open = max(open, d.api.Open())
			}
		}
	})
	for i := range callers {
		all.Go(func() {
			for range 3 {
				status, header, body := d.call(i%2, http.MethodPost, api.PathCountTokens, slow,
					"X-Forwarded-For", fmt.Sprint("203.0.113.", i%100), "X-Api-Key", fmt.Sprint("sk-ant-api03-flood-", i))
				again := header.Get("Retry-After") != "" && header.Get("x-should-retry") == "true"
				switch {
				case status == http.StatusOK:
					served.Add(1)
				case status == http.StatusTooManyRequests && again:
					refused.Add(1)
				default:
					t.Errorf("%d: %s", status, body)
				}
			}
		})
	}
	var slowest time.Duration
	for i := range 10 {
		began := time.Now()
		requireAnswer(t, d.ask(i%2, "ada", fmt.Sprint("during ", i)), fmt.Sprint("during ", i))
		slowest = max(slowest, time.Since(began))
	}
	all.Wait()
	close(ended)
	watch.Wait()
	t.Logf("%d calls were served, %d refused; at most %d open at the API; ada's slowest turn took %s",
		served.Load(), refused.Load(), open, slowest)
	require.Positive(t, refused.Load())
	require.GreaterOrEqual(t, served.Load(), int64(most))
	require.LessOrEqual(t, open, most+1, "and ada's turn")
}
