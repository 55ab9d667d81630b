package function

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/claude"
)

const asChatRequest = `{"model":"haiku","messages":[{"role":"user","content":"hi"}]%s}`

// complete posts to the path of chat completions.
func complete(t *testing.T, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	return do(t, http.MethodPost, url+api.PathChat, body, append([]string{"Authorization", "Bearer sk-ant-api03-secret"},
		headers...)...)
}

// chunks are the data of a stream, without its comments.
func chunks(stream string) (all []string) {
	for line := range strings.Lines(stream) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			all = append(all, strings.TrimSuffix(data, "\n"))
		}
	}
	return all
}

func TestChat_AStreamIsOfChunks(t *testing.T) {
	_, url, _ := newFront(t, events(append(framed(answered...), api.Ping, served, api.Done)...))
	more := `,"stream":true,"stream_options":{"include_usage":true},"temperature":1`
	response, body := complete(t, url, fmt.Sprintf(asChatRequest, more))
	require.Equal(t, 200, response.StatusCode, body)
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	require.Equal(t, "temperature", response.Header.Get("X-Claudepool-Ignored"))
	require.NotEmpty(t, response.Header.Get(api.HeaderRequestID))
	all := chunks(body)
	require.Len(t, all, 6, body)
	require.Equal(t, "assistant", gjson.Get(all[0], "choices.0.delta.role").Str)
	require.Equal(t, "Hel", gjson.Get(all[1], "choices.0.delta.content").Str)
	require.Equal(t, "lo", gjson.Get(all[2], "choices.0.delta.content").Str)
	require.Equal(t, "stop", gjson.Get(all[3], "choices.0.finish_reason").Str)
	require.EqualValues(t, 50, gjson.Get(all[4], "usage.total_tokens").Int())
	require.Equal(t, "[DONE]", all[5])
	require.Contains(t, body, "\n: ping\n")
	require.Contains(t, body, served)
	require.NotContains(t, body, "event:")
	require.InDelta(t, time.Now().Unix(), gjson.Get(all[0], "created").Int(), 300)
}

func TestChat_WithoutStreamItIsOneCompletion(t *testing.T) {
	_, url, _ := newFront(t, events(append(framed(answered...), served, api.Done)...))
	response, body := complete(t, url, fmt.Sprintf(asChatRequest, ""))
	require.Equal(t, 200, response.StatusCode, body)
	require.Equal(t, "application/json", response.Header.Get("Content-Type"))
	require.Equal(t, "chat.completion", gjson.Get(body, "object").Str)
	require.Equal(t, "Hello", gjson.Get(body, "choices.0.message.content").Str)
	require.EqualValues(t, 20, gjson.Get(body, "usage.completion_tokens").Int())
}

func TestChat_FailuresHaveOpenAIsEnvelopeAndSayWhetherToSendAgain(t *testing.T) {
	failed := `{"type":"result","subtype":"success","is_error":true,"api_error_status":529,"result":"overloaded"}`
	for name, c := range map[string]struct {
		instance    http.HandlerFunc
		status      int
		kind, again string
	}{
		"a failed turn": {events(append(framed(answered[0], failed), api.Done)...), 529, "overloaded_error", "false"},
		"a broken hop":  {events(framed(answered[0])...), 502, "api_error", "false"},
		"no room": {func(w http.ResponseWriter, _ *http.Request) {
			api.WriteError(w, "", api.Overloaded(2*time.Second, "no"))
		}, 529, "overloaded_error", "true"},
		"a bad credential": {func(w http.ResponseWriter, _ *http.Request) {
			api.WriteError(w, "", api.CredentialRefused())
		}, 401, "authentication_error", "false"},
	} {
		for _, stream := range []string{"", `,"stream":true`} {
			_, url, _ := newFront(t, c.instance)
			response, body := complete(t, url, fmt.Sprintf(asChatRequest, stream))
			require.Equal(t, c.status, response.StatusCode, "%s: %s", name, body)
			require.Equal(t, c.again, response.Header.Get("X-Should-Retry"), name)
			require.Equal(t, "application/json", response.Header.Get("Content-Type"), name)
			requireFailure(t, c.kind, body)
		}
	}
}

// requireFailure checks that a text is OpenAI's envelope and no other.
func requireFailure(t *testing.T, kind, body string) {
	t.Helper()
	require.True(t, gjson.Valid(body), body)
	require.Equal(t, kind, gjson.Get(body, "error.type").Str, body)
	require.NotEmpty(t, gjson.Get(body, "error.message").Str, body)
	require.True(t, gjson.Get(body, "error.param").Exists(), body)
	require.False(t, gjson.Get(body, "type").Exists(), body)
}

func TestChat_WhatIsRefusedBeforehandHasTheSameEnvelope(t *testing.T) {
	f, url, _ := newFront(t, events(append(framed(answered...), api.Done)...))
	response, body := complete(t, url, fmt.Sprintf(asChatRequest, `,"tools":[{}]`))
	require.Equal(t, 400, response.StatusCode)
	requireFailure(t, "invalid_request_error", body)
	response, body = complete(t, url, fmt.Sprintf(asChatRequest, ""), "Authorization", "")
	require.Equal(t, 401, response.StatusCode)
	requireFailure(t, "authentication_error", body)
	response, body = complete(t, url, fmt.Sprintf(asChatRequest, ""), "Content-Type", "text/plain")
	require.Equal(t, 400, response.StatusCode)
	requireFailure(t, "invalid_request_error", body)
	response, err := http.Get(url + api.PathChat)
	require.NoError(t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, 405, response.StatusCode)
	requireFailure(t, "invalid_request_error", string(text))

	f.opts.APIKeys = apiKeysOf(t, "key-of-one", "sk-ant-api03-secret")
	response, body = complete(t, url, fmt.Sprintf(asChatRequest, ""))
	require.Equal(t, 401, response.StatusCode)
	requireFailure(t, "authentication_error", body)
	require.Contains(t, body, "x-claudepool-key")
	response, body = complete(t, url, fmt.Sprintf(asChatRequest, ""), headerKey, "key-of-one")
	require.Equal(t, 200, response.StatusCode, body)
}

func TestFront_WhatIsNeverServedIsRefusedInTheShapeOfWhoAsks(t *testing.T) {
	f, url, _ := newFront(t)
	for _, c := range []struct {
		method, path string
		status       int // 0 once the front shuts down
		isChat       bool
	}{
		{http.MethodPost, "/v1/chat/completions/1", 404, true}, {http.MethodGet, api.PathChat, 405, true},
		{http.MethodPut, api.PathModels, 405, true},
		{http.MethodPost, "/v1/messages/batches", 404, false}, {http.MethodGet, api.PathMessagesAPI, 405, false},
		{http.MethodPost, api.PathChat, 0, true}, {http.MethodGet, api.PathModels, 0, true},
		{http.MethodPost, api.PathMessagesAPI, 0, false}, {http.MethodPost, "/v1/chat/completions/1", 0, true},
	} {
		kind, again := map[int]string{404: "not_found_error", 405: "invalid_request_error", 0: "api_error"}[c.status], "false"
		if c.status == 0 {
			f.Drain(0)
			c.status, again = 503, "true"
		}
		response, body := do(t, c.method, url+c.path, "")
		require.Equal(t, c.status, response.StatusCode, c.path)
		require.Equal(t, again, response.Header.Get(api.HeaderShouldRetry), c.path)
		require.NotEmpty(t, response.Header.Get(api.HeaderRequestID), c.path)
		if c.isChat {
			requireFailure(t, kind, body)
			continue
		}
		require.Equal(t, "error", gjson.Get(body, "type").Str, c.path)
		require.Equal(t, kind, gjson.Get(body, "error.type").Str, c.path)
	}
}

func TestChat_AnErrorInTheStreamEndsItWithoutDone(t *testing.T) {
	_, url, _ := newFront(t, events(framed(answered[:4]...)...))
	response, body := complete(t, url, fmt.Sprintf(asChatRequest, `,"stream":true`))
	require.Equal(t, 200, response.StatusCode)
	all := chunks(body)
	requireFailure(t, "api_error", all[len(all)-1])
	require.NotContains(t, body, "[DONE]")
}

// conversations is an instance with one process for each conversation, which it finds as a pool does.
type conversations struct {
	mu    sync.Mutex
	known []api.Digests
}

// turn is one in which the assistant speaks, asks a tool, is cut off, and speaks again.
var turn = []string{
	answered[1], answered[2],
	strings.Replace(answered[3], "Hel", "let me see ", 1),
	`{"type":"assistant","message":{"id":"msg_1","content":[{"type":"text","text":"let me see "}]}}`,
	answered[5],
	`{"type":"stream_event","event":{"type":"content_block_start","content_block":{"type":"tool_use","id":"t"}}}`,
	`{"type":"assistant","message":{"id":"msg_1","content":[{"type":"tool_use","id":"t","name":"Bash","input":{}}]}}`,
	answered[5], answered[6], answered[7],
	`{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t","content":"seen"}]}}`,
	strings.Replace(answered[1], "msg_1", "msg_2", 1), answered[2], answered[3],
	answered[5], answered[7], // cut
	strings.Replace(answered[1], "msg_1", "msg_3", 1), answered[2],
	strings.Replace(answered[3], "Hel", "Another", 1),
	`{"type":"assistant","message":{"id":"msg_3","content":[{"type":"text","text":"Another"}]}}`,
	answered[5], answered[6], answered[7],
	`{"type":"result","subtype":"success","is_error":false,"result":"Another"}`,
}

func (c *conversations) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	req, err := api.Decode(body)
	if err != nil {
		api.WriteError(w, "", err)
		return
	}
	reading := req.Readings()[0]
	c.mu.Lock()
	process, at := "reused", 0
	for ; at < len(c.known); at++ {
		_, now := c.known[at].Way(reading.History.Now)
		_, loose := c.known[at].Way(reading.History.Loose)
		if now || loose {
			break
		}
	}
	if at == len(c.known) {
		process, c.known = "standby", append(c.known, reading.History.Begin())
	}
	var answer claude.Answer
	for _, l := range turn {
		line, err := claude.ParseLine([]byte(l))
		if err == nil {
			answer.Add(&line)
		}
	}
	c.known[at] = c.known[at].Extend(reading.Asked, api.Reply{All: answer.All(), Message: answer.Message(),
		Block: answer.Block(), Deltas: answer.Deltas(), Shown: answer.Shown(), Result: answer.Results()})
	c.mu.Unlock()
	w.Header().Set(api.HeaderProcess, process)
	w.Header().Set(api.HeaderPID, fmt.Sprint(at))
	for _, part := range append(framed(turn...), api.Done) {
		fmt.Fprint(w, part)
	}
}

func TestChat_WhatAClientKeepsFindsItsConversation(t *testing.T) {
	type message = map[string]any
	for name, keep := range map[string]struct {
		stream bool
		of     func(body string) any
		says   string
	}{
		"whole": {false, func(body string) any { return gjson.Get(body, "choices.0.message").Value() },
			"let me see \n\nAnother"},
		"streamed": {true, func(body string) any { return message{"role": "assistant", "content": deltas(body)} },
			"let me see \n\nHel\n\nAnother"},
	} {
		_, url, _ := newFront(t, (&conversations{}).ServeHTTP)
		list := []any{message{"role": "system", "content": "be brief"}}
		for i, process := range []string{"standby", "reused", "reused"} {
			list = append(list, message{"role": "user", "content": fmt.Sprint("question ", i)})
			sent, err := json.Marshal(message{"model": "haiku", "stream": keep.stream, "messages": list})
			require.NoError(t, err)
			response, body := complete(t, url, string(sent))
			require.Equal(t, 200, response.StatusCode, body)
			require.Equal(t, process, response.Header.Get(api.HeaderProcess), "%s, turn %d", name, i)
			require.Equal(t, "0", response.Header.Get(api.HeaderPID), name)
			answer := keep.of(body)
			require.Equal(t, keep.says, answer.(message)["content"], name)
			list = append(list, answer)
		}
	}
}

// deltas is all that a stream says.
func deltas(stream string) (text string) {
	for _, chunk := range chunks(stream) {
		text += gjson.Get(chunk, "choices.0.delta.content").Str
	}
	return text
}

func TestChat_ModelsAreListedAsWhoeverAsksReadsThem(t *testing.T) {
	const list = `{"data":[{"type":"model","id":"claude-haiku-5-5","created_at":"2026-11-27T12:00:00Z"}],"has_more":false}`
	status, query := http.StatusOK, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w = inShape(w, r)
		query = r.URL.RawQuery
		if status == http.StatusOK {
			fmt.Fprint(w, list)
			return
		}
		api.WriteError(w, "", &api.Error{Status: status, Type: "api_error", Message: "no"})
	}))
	defer server.Close()
	get := func(version string) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v1/models?limit=2", nil)
		require.NoError(t, err)
		if version != "" {
			r.Header.Set("anthropic-version", version)
		}
		response, err := server.Client().Do(r)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Equal(t, status, response.StatusCode)
		return string(body)
	}
	require.Equal(t, list, get("2023-06-01"))
	require.Equal(t, "limit=2", query)
	require.JSONEq(t, `{"object":"list","data":[
		{"id":"claude-haiku-5-5","object":"model","created":1795780800,"owned_by":"anthropic"}]}`, get(""))
	require.Equal(t, "limit=1000", query)
	status = http.StatusServiceUnavailable
	requireFailure(t, "api_error", get(""))
	require.Contains(t, get("2023-06-01"), `{"type":"error"`)
}
