package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

const serviceKey = "a-key-of-the-service"

// thatCosts is a turn of so many calls, of a fifth of a dollar each.
func thatCosts(calls int) string {
	text := uuid.NewString() + " [[latency=60ms]] [[usage=50000 0 0 0 0]]"
	for n := 1; n < calls; n++ {
		text += fmt.Sprintf("[[%d:tool=Bash {}]]", n)
	}
	return text
}

// begin has a turn of a conversation of the user's by the service's key, and returns how it was answered.
func (b *billing) begin(front int, path, user string, request client.Fields) got {
	raw, err := json.Marshal(request)
	require.NoError(b.t, err)
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.fronts[front]+path, bytes.NewReader(raw))
	require.NoError(b.t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Claudepool-Key", serviceKey)
	if path != api.PathMessages {
		r.Header.Set("Authorization", "Bearer "+credentials(user)["access_token"])
	}
	answer, err := b.http.Do(r)
	require.NoError(b.t, err)
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return got{status: answer.StatusCode, instance: answer.Header.Get(api.HeaderInstance), body: string(text)}
}

func (b *billing) pooled(front int, user string) got {
	request := client.Turn(credentials(user)["access_token"], thatCosts(12))
	request["model"], request["session_id"] = "claude-opus-5-5", uuid.NewString()
	return b.begin(front, api.PathMessages, user, request)
}

// cents is what the API has billed in all, or a user.
func (b *billing) cents(user string) (cents int64) {
	var all pooltest.Took
	for token, took := range b.api.Billed() {
		if user == "" || token == credentials(user)["access_token"] {
			all = all.Plus(took)
		}
	}
	return all.Input * 4 / 10_000
}

// requireEnded requires that turns were ended by a budget, and returns which.
func requireEnded(t *testing.T, turns ...got) (codes []string) {
	t.Helper()
	for _, g := range turns {
		if g.status == http.StatusOK {
			_, last, _ := strings.Cut(g.body, `data: {"type":"error"`)
			g.body = `{"type":"error"` + last
		} else {
			require.Equal(t, http.StatusPaymentRequired, g.status, g.body)
		}
		code := gjson.Get(g.body, "error.details.error_code").Str
		require.Contains(t, []string{"user_budget_spent", "key_budget_spent"}, code, g.body)
		codes = append(codes, code)
	}
	return codes
}

func TestBudgets_AreExceededByOneCallOfEachRunningTurnAtMost(t *testing.T) {
	t.Parallel()
	digest := sha256.Sum256([]byte(serviceKey))
	b := newBilling(t, 0, "API_KEYS="+hex.EncodeToString(digest[:]), "BUDGET_USER=1usd/d", "BUDGET_KEY=4usd/30d")

	var running sync.WaitGroup
	turns := make([]got, 3)
	for i := range turns {
		running.Go(func() { turns[i] = b.pooled(i%2, "ada") })
	}
	running.Wait()
	require.NotContains(t, requireEnded(t, turns...), "key_budget_spent")
	require.GreaterOrEqual(t, b.cents("ada"), int64(100))
	require.LessOrEqual(t, b.cents("ada"), int64(100+3*20))
	messages := client.Fields{"model": "claude-opus-5-5", "max_tokens": 10,
		"messages": []client.Fields{{"role": "user", "content": "more"}}}
	refused := b.begin(0, api.PathMessagesAPI, "ada", messages)
	require.Equal(t, []string{"user_budget_spent"}, requireEnded(t, refused))
	require.Equal(t, http.StatusPaymentRequired, refused.status)
	require.Equal(t, "billing_error", gjson.Get(refused.body, "error.type").Str, refused.body)

	turns = make([]got, 8)
	for i := range turns {
		running.Go(func() { turns[i] = b.pooled(i%2, fmt.Sprint("one", i)) })
	}
	running.Wait()
	require.Contains(t, requireEnded(t, turns...), "key_budget_spent", "one who was fast may have spent its own before")
	require.GreaterOrEqual(t, b.cents(""), int64(400))
	require.LessOrEqual(t, b.cents(""), int64(400+8*20))
	instances := make(map[string]bool)
	for _, g := range turns {
		instances[g.instance] = true
	}
	require.Len(t, instances, 2, "it holds across instances")
	refused = b.begin(1, api.PathChat, "somebody-new", messages)
	require.Equal(t, http.StatusPaymentRequired, refused.status, refused.body)
	require.Equal(t, "key_budget_spent", gjson.Get(refused.body, "error.code").Str, "in OpenAI's shape: %s", refused.body)

	var report api.UsageReport
	require.Equal(t, http.StatusOK, b.get(api.PathAdminUsage, "operator", &report))
	last := report.Usage[len(report.Usage)-1]
	require.Equal(t, hex.EncodeToString(digest[:8]), last.KeyID)
	require.InDelta(t, float64(b.cents(""))/100, last.CostUSD, 1e-9)
}
