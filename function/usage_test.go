package function

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/prices"
	"claudepool/infra/testkit"
	"claudepool/infra/usage"
	"claudepool/pool/api"
)

// newUsageFront is a front whose sums are in a Redis of the test's own. write adds what a token's turns took today.
func newUsageFront(t *testing.T) (f *Front, url string, client *redis.Client, write func(token, key, model string)) {
	t.Helper()
	client = redis.NewClient(&redis.Options{Addr: testkit.Redis(t), MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, time.Minute, time.Millisecond)
	f, url, _ = newFront(t)
	f.opts.Usage, f.opts.StatsToken = usage.NewReader(client), "operator"
	log := slog.New(slog.DiscardHandler)
	ledger := usage.NewLedger(client, log)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	for _, run := range []func(context.Context){ledger.Run, usage.NewKeeper(client, nil, log).Run} {
		go func() {
			run(ctx)
			ended <- struct{}{}
		}()
	}
	t.Cleanup(func() {
		stop()
		<-ended
		<-ended
	})
	return f, url, client, func(token, key, model string) {
		who := api.Request{OAuth: &api.OAuthCredentials{AccessToken: token}}
		call := prices.Call{Model: model, Input: 10, Output: 20, CacheRead: 30, CacheWrite5m: 40, CacheWrite1h: 50}
		ledger.Add(who.UserID(), key, usage.Sums{{Model: prices.Name(model), Sum: usage.Of(call)}})
		require.NoError(t, ledger.Flush(t.Context()))
	}
}

func TestUsage_WhoeverAsksIsToldOfItsOwn(t *testing.T) {
	t.Parallel()
	_, url, client, write := newUsageFront(t)
	write("sk-ant-oat01-ada", "", "claude-opus-5-5")
	write("sk-ant-oat01-ada", "", "who-knows")
	write("sk-ant-oat01-bob", "", "claude-opus-5-5")
	require.Eventually(t, func() bool {
		response, _ := do(t, http.MethodGet, url+"/v1/usage", "", "X-Api-Key", "sk-ant-oat01-ada")
		return response.StatusCode == http.StatusOK
	}, time.Minute, time.Millisecond)
	response, text := do(t, http.MethodGet, url+"/v1/usage", "", "Authorization", "Bearer sk-ant-oat01-ada")
	require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
	var report api.UsageReport
	require.NoError(t, json.Unmarshal([]byte(text), &report))
	day := usage.Day(time.Now())
	of := api.UsageTotal{APICalls: 1, Input: 10, Output: 20, CacheRead: 30, CacheWrite5m: 40, CacheWrite1h: 50,
		CostUSD: 0.001046}
	other := of
	other.CostUSD = 0.00263
	total := api.UsageTotal{APICalls: 2, Input: 20, Output: 40, CacheRead: 60, CacheWrite5m: 80, CacheWrite1h: 100,
		CostUSD: 0.003676}
	require.Equal(t, api.UsageReport{From: usage.Day(time.Now().AddDate(0, 0, -29)), To: day, Total: &total,
		Usage: []api.UsageRow{{Day: day, Model: "claude-opus-5-5", UsageTotal: of},
			{Day: day, Model: "other", UsageTotal: other}}}, report)

	response, text = do(t, http.MethodGet, url+"/v1/usage", "", "Authorization", "Bearer sk-ant-oat01-ada", "Accept",
		"text/html, text/csv;q=0.9")
	require.Contains(t, response.Header.Get("Content-Type"), "text/csv")
	lines := strings.Split(text, "\n")
	require.True(t, strings.HasPrefix(lines[0], "day,user_id,key_id,model,api_calls,input_tokens,"), text)
	require.Equal(t, day+",,,claude-opus-5-5,1,10,20,30,40,50,0,0.001046", lines[1])
	_, text = do(t, http.MethodGet, url+"/v1/usage?to=2026-01-02&from=2026-01-01", "", "X-Api-Key", "sk-ant-oat01-ada")
	require.Contains(t, text, `"usage": []`)
	_, text = do(t, http.MethodGet, url+"/v1/usage", "", "X-Api-Key", "never-seen")
	require.Contains(t, text, `"usage": []`)

	require.NoError(t, client.Close())
	response, _ = do(t, http.MethodGet, url+"/v1/usage", "", "X-Api-Key", "sk-ant-oat01-ada")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	require.Equal(t, "true", response.Header.Get("X-Should-Retry"))
}

func TestUsage_BadQuestionsAreRefused(t *testing.T) {
	t.Parallel()
	f, url, _, _ := newUsageFront(t)
	for _, query := range []string{"from=yesterday", "to=2026-13-01", "from=2026-02-02&to=2026-02-01",
		"from=2026-01-01&to=2026-03-04", "from=9999-12-31"} {
		response, text := do(t, http.MethodGet, url+"/v1/usage?"+query, "", "X-Api-Key", "sk-ant-oat01-ada")
		require.Equal(t, http.StatusBadRequest, response.StatusCode, query)
		require.Contains(t, text, "invalid_request_error")
	}
	for _, query := range []string{"after=x", "limit=0", "limit=501", "limit=many", "from=x"} {
		response, _ := do(t, http.MethodGet, url+"/v1/admin/usage?"+query, "", "Authorization", "Bearer operator")
		require.Equal(t, http.StatusBadRequest, response.StatusCode, query)
	}
	response, _ := do(t, http.MethodGet, url+"/v1/usage", "")
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	f.opts.APIKeys = apiKeysOf(t, "service-key")
	response, _ = do(t, http.MethodGet, url+"/v1/usage", "", "X-Api-Key", "service-key")
	require.Equal(t, http.StatusUnauthorized, response.StatusCode, "there it is a user's")
}

func TestAdminUsage_IsTheOperatorsAlone(t *testing.T) {
	t.Parallel()
	f, url, _, write := newUsageFront(t)
	for i := range 5 {
		write(fmt.Sprintf("sk-ant-oat01-%d", i), "00000000000000aa", "claude-opus-5-5")
	}
	for token, want := range map[string]int{"": 401, "Bearer wrong": 401, "Bearer sk-ant-oat01-0": 401} {
		response, _ := do(t, http.MethodGet, url+"/v1/admin/usage", "", "Authorization", token)
		require.Equal(t, want, response.StatusCode)
	}
	require.Eventually(t, func() bool {
		response, _ := do(t, http.MethodGet, url+"/v1/admin/usage", "", "Authorization", "Bearer operator")
		return response.StatusCode == http.StatusOK
	}, time.Minute, time.Millisecond)
	seen, after := make(map[string]int64), ""
	for {
		_, text := do(t, http.MethodGet, url+"/v1/admin/usage?limit=2"+after, "", "Authorization", "Bearer operator")
		var report api.UsageReport
		require.NoError(t, json.Unmarshal([]byte(text), &report))
		require.LessOrEqual(t, len(report.Usage), 2)
		for _, row := range report.Usage {
			seen[row.UserID+row.KeyID] += row.APICalls
		}
		if report.Next == "" {
			break
		}
		after = "&after=" + report.Next
		csv, _ := do(t, http.MethodGet, url+"/v1/admin/usage?limit=2&format=csv", "", "Authorization", "Bearer operator")
		require.NotEmpty(t, csv.Header.Get("X-Claudepool-Next"))
	}
	require.Len(t, seen, 6)
	require.EqualValues(t, 5, seen["00000000000000aa"])

	f.opts.StatsToken = ""
	response, _ := do(t, http.MethodGet, url+"/v1/admin/usage", "", "Authorization", "Bearer operator")
	require.Equal(t, http.StatusNotFound, response.StatusCode)
}

func TestFront_TellsTheInstanceByWhichKeyARequestCame(t *testing.T) {
	t.Parallel()
	var got []string
	f, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get(api.HeaderServiceKey))
		events("data: {}\n\n", api.Done)(w, r)
	})
	do(t, http.MethodPost, url+api.PathMessages, question, api.HeaderServiceKey, "forged")
	f.opts.APIKeys = apiKeysOf(t, "other", "service-key")
	do(t, http.MethodPost, url+api.PathMessages, question, "X-Claudepool-Key", "service-key", api.HeaderServiceKey,
		"forged")
	require.Len(t, got, 2)
	require.Empty(t, got[0])
	require.Regexp(t, "^[0-9a-f]{16}$", got[1])
}
