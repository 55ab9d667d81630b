package api_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

const someID = "0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11"

func TestConversations_AreToldInPartsWithoutRepeatingAny(t *testing.T) {
	var all []api.Conversation
	now := time.Now()
	for i, digit := range "0123456789" {
		all = append(all, api.Conversation{ID: strings.Repeat(string(digit), 36), LastUsed: now.Add(-time.Duration(i/2) *
			time.Second)})
	}
	q := api.ConversationQuery{Limit: 4}
	var told []api.Conversation
	for range 3 {
		part := q.Part(all)
		told = append(told, part.Conversations...)
		require.NoError(t, (&api.ConversationQuery{}).SetPart(url.Values{"after": {part.Next}}))
		q.After = part.Next
		all[0].LastUsed = now.Add(time.Minute) // it is used again
	}
	require.Len(t, told, 10)
	require.Empty(t, q.After)
	q.After = "9999999999999999999." + someID
	require.Len(t, q.Part(all).Conversations, 4)
	q.After = "0." + someID
	require.Empty(t, q.Part(all).Conversations)
}

func TestConversations_BadPartsAreRefused(t *testing.T) {
	for _, query := range []string{"limit=0x", "limit=101", "limit=-1", "limit=many", "before=0", "before=-1", "before=x",
		"before=1073741825", "after=x", "after=1." + someID + "x", "after=-1." + someID, "limit=0"} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		require.ErrorContains(t, (&api.ConversationQuery{}).SetPart(values), "must be", query)
	}
	_, _, err := api.DecodeQuery([]byte(`{"api_key":"sk-ant-api03-secret","limit":101}`))
	require.ErrorContains(t, err, "limit")
	for body, good := range map[string]bool{`{}`: true, `{"session_id":"` + someID + `"}`: true, `[]`: false, `{`: false,
		`{"session_id":"mine"}`: false, `{"session_id":7}`: false} {
		_, err := api.DecodeFork([]byte(body))
		require.Equal(t, good, err == nil, body)
	}
}

func TestRequest_ItsTitleIsTheBeginningOfTheFirstText(t *testing.T) {
	for body, want := range map[string]string{
		`"  Hello,\n\tworld\u0007!  "`: "Hello, world !",
		`[{"type":"image"},{"type":"text","text":"<system-reminder>no"},{"type":"text","text":"this"}]`: "this",
		`[{"type":"image"}]},{"role":"assistant","content":"no"},{"role":"user","content":"yes"`:        "yes",
		`[{"type":"image"}]`:                         "",
		`"` + strings.Repeat("é ", 5000) + `"`:       strings.Repeat("é ", 39) + "é…",
		`"` + strings.Repeat(`\n`, 5000) + `late"`:   "",
		`"` + strings.Repeat("x", 80) + `"`:          strings.Repeat("x", 80),
		`"` + strings.Repeat(`\u202e`, 3) + `right"`: "right",
	} {
		var req api.Request
		require.NoError(t, json.Unmarshal([]byte(`{"messages":[{"role":"user","content":`+body+`}]}`), &req))
		require.Equal(t, want, req.Title(), body[:min(len(body), 100)])
	}
}
