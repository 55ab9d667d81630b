package function

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

const asMessages = `{"model":"haiku","max_tokens":10,"messages":[{"role":"user","content":"hi"}]%s}`

// answered are the events of a turn that says "Hello" in two parts.
var answered = []string{
	`{"type":"system","subtype":"init"}`,
	`{"type":"stream_event","event":{"type":"message_start","message":{"id":"msg_1","model":"claude-haiku-5-5",` +
		`"usage":{"input_tokens":3}}}}`,
	`{"type":"stream_event","event":{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}}`,
	`{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}}`,
	`{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}}`,
	`{"type":"stream_event","event":{"type":"content_block_stop","index":0}}`,
	`{"type":"stream_event","event":{"type":"message_delta","delta":{"stop_reason":"end_turn"},` +
		`"usage":{"output_tokens":2}}}`,
	`{"type":"stream_event","event":{"type":"message_stop"}}`,
	`{"type":"result","subtype":"success","is_error":false,"result":"Hello"}`,
}

// framed are lines as they stand in a pooled stream.
func framed(lines ...string) (events []string) {
	for _, l := range lines {
		events = append(events, "data: "+l+"\n\n")
	}
	return events
}

const served = `: receipt {"process":"reused","pid":7,"instance":"i1","queue_ms":0,"ready_ms":1,"first_event_ms":2,` +
	`"total_ms":3,"context":"kept","usage":{"input_tokens":30,"output_tokens":20},"cost_usd":0.1,"api_calls":1}` + "\n"

// say posts to the Messages API's path.
func say(t *testing.T, url, more string, headers ...string) (*http.Response, string) {
	t.Helper()
	return do(t, http.MethodPost, url+"/v1/messages?beta=true", fmt.Sprintf(asMessages, more),
		append([]string{"X-Api-Key", "sk-ant-api03-secret"}, headers...)...)
}

func TestMessages_AStreamIsOfNamedEvents(t *testing.T) {
	_, url, _ := newFront(t, events(append(framed(answered...), api.Ping, served, api.Done)...))
	response, body := say(t, url, `,"stream":true,"top_k":3`)
	require.Equal(t, 200, response.StatusCode, body)
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	require.Equal(t, "7", response.Header.Get(api.HeaderPID))
	require.Equal(t, "max_tokens, top_k", response.Header.Get("X-Claudepool-Ignored"))
	require.Regexp(t, "^req_[0-9a-f]{24}$", response.Header.Get("Request-Id"))
	require.Equal(t, response.Header.Get("Request-Id"), response.Header.Get("X-Request-Id"))
	var names []string
	for frame := range strings.SplitSeq(strings.TrimSpace(body), "\n\n") {
		frame = strings.TrimPrefix(frame, served)
		name, data, ok := strings.Cut(strings.TrimPrefix(frame, "event: "), "\ndata: ")
		require.True(t, ok, frame)
		require.True(t, json.Valid([]byte(data)), frame)
		names = append(names, name)
	}
	require.Equal(t, []string{"message_start", "content_block_start", "content_block_delta", "content_block_delta",
		"content_block_stop", "ping",
		"message_delta", "message_stop"}, names)
	require.Contains(t, body, served)
	require.Contains(t, body, `"input_tokens":30`)
	require.NotContains(t, body, "[DONE]")
}

func TestMessages_WithoutStreamItIsOneMessage(t *testing.T) {
	_, url, _ := newFront(t, events(append(framed(answered...), api.Ping, served, api.Done)...))
	response, body := say(t, url, "")
	require.Equal(t, 200, response.StatusCode, body)
	require.Equal(t, "application/json", response.Header.Get("Content-Type"))
	require.JSONEq(t, `{"id":"msg_1","type":"message","role":"assistant","model":"claude-haiku-5-5",
		"content":[{"type":"text","text":"Hello"}],
		"stop_reason":"end_turn","stop_sequence":null,"stop_details":null,"usage":{"input_tokens":30,"output_tokens":20,
		"cache_creation_input_tokens":0,"cache_read_input_tokens":0}}`, body)
}

func TestMessages_InWhateverPiecesTheHopComes(t *testing.T) {
	all := strings.Join(append(framed(answered...), served, api.Done), "")
	want := ""
	for _, size := range []int{len(all), 1, 2, 7, 100} {
		var parts []string
		for rest := all; rest != ""; rest = rest[min(size, len(rest)):] {
			parts = append(parts, rest[:min(size, len(rest))])
		}
		_, url, _ := newFront(t, events(parts...))
		_, body := say(t, url, `,"stream":true`)
		if want == "" {
			want = body
		}
		require.Equal(t, want, body, "%d bytes at a time", size)
	}
}

func TestMessages_FailuresSayWhetherTheRequestMayBeSentAgain(t *testing.T) {
	failed := `{"type":"result","subtype":"success","is_error":true,"api_error_status":529,"result":"overloaded"}`
	begunRefusal := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.HeaderBegun, "1")
		api.WriteError(w, "", api.Unavailable(time.Second, "no"))
	}
	for name, c := range map[string]struct {
		instance     http.HandlerFunc
		status       int
		again, after string
	}{
		"a failed turn": {events(append(framed(answered[0], failed), served, api.Done)...), 529, "false", ""},
		"a broken hop":  {events(framed(answered[0])...), 502, "false", ""},
		"an error event": {events("data: " + `{"type":"error","error":{"type":"api_error","message":"no"}}` + "\n\n" +
			api.Done), 500, "false", ""},
		"no room": {func(w http.ResponseWriter, _ *http.Request) {
			api.WriteError(w, "", api.Overloaded(2*time.Second, "no"))
		}, 529, "true", "2"},
		"a full queue": {func(w http.ResponseWriter, _ *http.Request) {
			api.WriteError(w, "", api.RateLimited(time.Second, "no"))
		}, 429, "true", "1"},
		"waited in vain": {events(api.NotBegun+"data: "+
			`{"type":"error","error":{"type":"rate_limit_error","message":"no"}}`+"\n\n", api.Done), 429, "true", "1"},
		"after it began":  {begunRefusal, 503, "false", "1"},
		"another failure": {refuse(502, false), 502, "false", ""},
		"a bad request":   {refuse(400, false), 400, "false", ""},
		"a hop refused":   {refuse(401, false), 502, "false", ""},
		"no answer":       {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 502, "false", ""},
	} {
		for _, stream := range []string{"", `,"stream":true`} {
			_, url, _ := newFront(t, c.instance)
			response, body := say(t, url, stream)
			require.Equal(t, c.status, response.StatusCode, "%s: %s", name, body)
			require.Equal(t, c.again, response.Header.Get("X-Should-Retry"), name)
			require.Equal(t, c.after, response.Header.Get("Retry-After"), name)
			require.Equal(t, "application/json", response.Header.Get("Content-Type"), name)
			require.NotEmpty(t, response.Header.Get("Request-Id"), name)
			require.Contains(t, body, `{"type":"error","error":{"type":"`, name)
		}
	}
}

func TestMessages_AnErrorInTheStreamEndsItWithoutMessageStop(t *testing.T) {
	_, url, _ := newFront(t, events(framed(answered[:4]...)...))
	response, body := say(t, url, `,"stream":true`)
	require.Equal(t, 200, response.StatusCode)
	require.Contains(t, body, "Hel")
	require.NotContains(t, body, "message_stop")
	end := fmt.Sprintf("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":%q},"+
		"\"request_id\":%q}\n\n",
		errBroken.Message, response.Header.Get("Request-Id"))
	require.True(t, strings.HasSuffix(body, end), body)
}

func TestMessages_ABrokenHopOfATurnThatGoesOnIsTakenUpAgain(t *testing.T) {
	var all []string
	for i, event := range framed(answered...) {
		all = append(all, fmt.Sprintf("id: t1.%d\n%s", i+1, event))
	}
	resumed := ""
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.HeaderTurn, "t1")
		if r.URL.Path == api.PathResume {
			resumed = r.Header.Get(api.HeaderLastEvent)
			events(append(all[5:], api.Done)...)(w, r)
			return
		}
		events(strings.Join(all[:5], "")+all[5][:20])(w, r)
		panic(http.ErrAbortHandler)
	})
	response, body := say(t, url, "", "X-Claudepool-On-Disconnect", "finish")
	require.Equal(t, 200, response.StatusCode, body)
	require.Equal(t, "t1.5", resumed)
	require.Contains(t, body, `"text":"Hello"`)
}

func TestMessages_OnlyThePooledRequestIsForwarded(t *testing.T) {
	var got *http.Request
	var body []byte
	f, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		events(append(framed(answered...), api.Done)...)(w, r)
	})
	f.opts.APIKeys = apiKeysOf(t, "key-of-one")
	response, text := say(t, url, "", headerKey, "key-of-one")
	require.Equal(t, 200, response.StatusCode, text)
	require.Equal(t, api.PathMessages, got.URL.Path)
	require.JSONEq(t, `{"api_key":"sk-ant-api03-secret","model":"haiku","messages":[{"role":"user","content":"hi"}],`+
		`"stateless":true,"system":"","mcp_servers":{}}`, string(body))
	for _, name := range []string{headerKey, "X-Api-Key", "Authorization"} {
		require.Empty(t, got.Header.Get(name), name)
	}
}

func TestMessages_TheUsersOwnKeyIsNoneOfTheService(t *testing.T) {
	f, url, _ := newFront(t, events(append(framed(answered...), api.Done)...))
	f.opts.APIKeys = apiKeysOf(t, "key-of-one", "sk-ant-api03-secret")
	response, body := say(t, url, "")
	require.Equal(t, 401, response.StatusCode)
	require.Contains(t, body, "x-claudepool-key")
	response, _ = say(t, url, "", headerKey, "key-of-two")
	require.Equal(t, 401, response.StatusCode)
	response, _ = say(t, url, "", headerKey, "key-of-one")
	require.Equal(t, 200, response.StatusCode)
}

func TestMessages_AClientThatHangsUpEndsTheHop(t *testing.T) {
	for _, stream := range []string{"", `,"stream":true`} {
		begun, gone := make(chan struct{}), make(chan struct{})
		_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
			defer close(gone)
			close(begun)
			hanging(strings.Join(framed(answered[0]), ""))(w, r)
		})
		ctx, hangUp := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/messages",
			strings.NewReader(fmt.Sprintf(asMessages, stream)))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Api-Key", "sk-ant-api03-secret")
		go func() { <-begun; hangUp() }()
		_, err = http.DefaultClient.Do(r)
		require.Error(t, err)
		select {
		case <-gone:
		case <-time.After(30 * time.Second):
			require.Fail(t, "the hop goes on")
		}
	}
}

func TestMessages_AnAnswerOfAnySizeIsStreamedButNotKept(t *testing.T) {
	word := `{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta",` +
		`"text":"` + strings.Repeat("x", 1<<20) + `"}}}`
	lines := append([]string{}, answered[:3]...)
	for range 40 {
		lines = append(lines, word)
	}
	lines = append(lines, answered[5:]...)
	_, url, _ := newFront(t, events(append(framed(lines...), api.Done)...))
	response, body := say(t, url, "")
	require.Equal(t, 502, response.StatusCode)
	require.Contains(t, body, "streamed")
	response, body = say(t, url, `,"stream":true`)
	require.Equal(t, 200, response.StatusCode)
	require.Contains(t, body, "message_stop")
}
