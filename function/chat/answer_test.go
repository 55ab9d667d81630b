package chat

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/function/messages"
	"claudepool/pool/api"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// event is one of the Messages API's.
type event struct{ name, data string }

func eventsIn(stream string) (all []event) {
	for frame := range strings.SplitSeq(strings.TrimSpace(stream), "\n\n") {
		name, data, _ := strings.Cut(strings.TrimPrefix(frame, "event: "), "\ndata: ")
		all = append(all, event{name, data})
	}
	return all
}

// translated is the stream that events become.
func translated(usage bool, events []event) string {
	a := NewAnswer(&Asked{Usage: usage}, noon)
	var out []byte
	for _, e := range events {
		out = a.Event(out, e.name, []byte(e.data))
	}
	return string(out)
}

// read is what OpenAI's clients make of a stream.
type read struct {
	text, finish  string
	usage, failed gjson.Result
}

// readStream reads a stream, or says what such a client can't read in it.
func readStream(stream string) (r read, err error) {
	frames := strings.SplitAfter(stream, "\n\n")
	if last := len(frames) - 1; frames[last] == "" {
		frames = frames[:last]
	}
	head, over := "", false
	for _, frame := range frames {
		data, isData := strings.CutPrefix(strings.TrimPrefix(frame, api.Ping), "data: ")
		data, isWhole := strings.CutSuffix(data, "\n\n")
		chunk := gjson.Parse(data)
		switch {
		case !isData || !isWhole || strings.Contains(data, "\n"):
			return r, fmt.Errorf("no event: %q", frame)
		case over:
			return r, fmt.Errorf("an event behind the end: %q", frame)
		case data == "[DONE]":
			over = true
			continue
		case !gjson.Valid(data):
			return r, fmt.Errorf("no JSON: %q", frame)
		case chunk.Get("error").Exists():
			r.failed, over = chunk.Get("error"), true
			continue
		}
		if err := r.chunk(chunk, &head); err != nil {
			return r, fmt.Errorf("%w: %q", err, frame)
		}
	}
	if !over || !r.failed.Exists() && r.finish == "" {
		return r, fmt.Errorf("the stream has no end")
	}
	return r, nil
}

func (r *read) chunk(chunk gjson.Result, head *string) error {
	of := chunk.Get("id").Str + chunk.Get("created").Raw + chunk.Get("model").Str
	choice := chunk.Get("choices.0")
	switch {
	case chunk.Get("object").Str != "chat.completion.chunk" || chunk.Get("created").Int() != noon.Unix():
		return fmt.Errorf("no chunk")
	case *head == "":
		*head = of
		if choice.Get("delta.role").Str != "assistant" {
			return fmt.Errorf("the first has no role")
		}
	case *head != of:
		return fmt.Errorf("a chunk of something else")
	case choice.Get("delta.role").Exists():
		return fmt.Errorf("a second role")
	}
	if !choice.Exists() {
		r.usage = chunk.Get("usage")
		if r.finish == "" || chunk.Get("choices").Raw != "[]" || !r.usage.IsObject() {
			return fmt.Errorf("no usage")
		}
		return nil
	}
	if r.finish != "" || choice.Get("index").Raw != "0" || chunk.Get("usage").IsObject() {
		return fmt.Errorf("out of order")
	}
	r.text += choice.Get("delta.content").Str
	r.finish = choice.Get("finish_reason").Str
	return nil
}

// The files are streams of the Messages API; here is beside each what it has to become.
func TestAnswer_GoldenStreams(t *testing.T) {
	files, err := filepath.Glob("../messages/testdata/*.stream")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		stream := translated(true, eventsIn(string(raw)))
		_, err = readStream(stream)
		require.NoError(t, err, file)
		golden := filepath.Join("testdata", filepath.Base(file))
		if os.Getenv("UPDATE_GOLDEN") != "" {
			require.NoError(t, os.WriteFile(golden, []byte(stream), 0o600))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		require.Equal(t, string(want), stream, file)
	}
}

func TestAnswer_AStreamSaysWhatTheWholeAnswerSays(t *testing.T) {
	files, err := filepath.Glob("../messages/testdata/*.stream")
	require.NoError(t, err)
	compared := 0
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		events := eventsIn(string(raw))
		streamed, err := readStream(translated(true, events))
		require.NoError(t, err, file)
		if streamed.failed.Exists() {
			continue
		}
		collected := messages.NewCollector(1 << 20)
		for _, e := range events {
			collected.Take(e.name, []byte(e.data))
		}
		whole := gjson.ParseBytes(NewAnswer(&Asked{}, noon).Whole(collected.Message()))
		said := whole.Get("choices.0.message.content").Str
		if strings.Contains(string(raw), "claudepool_void") {
			require.True(t, strings.HasSuffix(streamed.text, said), file)
			require.NotEqual(t, streamed.text, said, file)
		} else {
			require.Equal(t, streamed.text, said, file)
		}
		require.Equal(t, streamed.finish, whole.Get("choices.0.finish_reason").Str, file)
		require.JSONEq(t, streamed.usage.Raw, whole.Get("usage").Raw, file)
		compared++
	}
	require.Greater(t, compared, 3)
}

const hello = `{"id":"msg_1","type":"message","role":"assistant","model":"claude-haiku-5-5","content":[
	{"type":"thinking","thinking":"hm","signature":"c2ln"},{"type":"text","text":"Hel"},{"type":"mcp_tool_use","id":"t"},
	{"type":"text","text":"<lo>"}],"stop_reason":"end_turn",
	"usage":{"input_tokens":1,"cache_creation_input_tokens":2,"cache_read_input_tokens":4,"output_tokens":8}}`

func TestAnswer_AWholeAnswerIsOneCompletion(t *testing.T) {
	require.JSONEq(t, `{"id":"chatcmpl-1","object":"chat.completion","created":1795780800,"model":"claude-haiku-5-5",
		"choices":[{"index":0,"message":{"role":"assistant","content":"Hel<lo>","refusal":null},"logprobs":null,
		"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":8,"total_tokens":15,
		"prompt_tokens_details":{"cached_tokens":4}}}`,
		string(NewAnswer(&Asked{Usage: true}, noon).Whole([]byte(hello))))
}

// How a message begins and ends.
const (
	start = `{"message":{"id":"msg_1","model":"m"}}`
	end   = `{"delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":3,"output_tokens":2}}`
)

func TestAnswer_UsageComesOnlyToWhoAsksForIt(t *testing.T) {
	events := []event{{"message_start", start}, {"message_delta", end}, {"message_stop", `{}`}}
	without := translated(false, events)
	require.NotContains(t, without, "usage")
	r, err := readStream(translated(true, events))
	require.NoError(t, err)
	require.EqualValues(t, 5, r.usage.Get("total_tokens").Int())
	require.Contains(t, translated(true, events), `"usage":null`)
}

func TestAnswer_EndsHaveOpenAIsNames(t *testing.T) {
	for stop, want := range map[string]string{
		"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "content_filter",
	} {
		require.Equal(t, want, *finishReason(stop))
	}
}

func TestAnswer_AnErrorIsTheLastAndNoDoneFollows(t *testing.T) {
	failure := api.Overloaded(time.Second, "no room")
	stream := translated(true, []event{{"message_start", start}, {"error", string(api.Envelope("req_1", failure))}})
	last := `data: {"error":{"message":"no room","type":"overloaded_error","param":null,"code":null}}`
	require.True(t, strings.HasSuffix(stream, "\n\n"+last+"\n\n"), stream)
	require.NotContains(t, stream, "[DONE]")
}

func TestAnswer_PingsAreComments(t *testing.T) {
	require.Equal(t, ": ping\n", translated(true, []event{{"ping", `{"type":"ping"}`}}))
}

// A reader that lets anything pass proves nothing.
func TestReadStream_RefusesStreamsThatAClientCannotRead(t *testing.T) {
	const more = `{"delta":{"type":"text_delta","text":"a"}}`
	good := translated(true, []event{{"message_start", start}, {"content_block_delta", more}, {"message_delta", end},
		{"message_stop", `{}`}})
	r, err := readStream(good)
	require.NoError(t, err)
	require.Equal(t, "a", r.text)
	frames := strings.SplitAfter(strings.TrimSuffix(good, "\n\n"), "\n\n")
	for name, mutant := range map[string]string{
		"no role":            strings.Join(frames[1:], "") + "\n\n",
		"no end":             strings.Join(frames[:len(frames)-1], ""),
		"no finish":          strings.Replace(good, `"stop"`, `null`, 1),
		"another's":          strings.Replace(good, `"chatcmpl-1"`, `"chatcmpl-2"`, 1),
		"a named event":      strings.Replace(good, "data: ", "event: x\ndata: ", 1),
		"behind the end":     good + frames[0],
		"cut":                good[:len(good)-1],
		"finish comes early": frames[0] + frames[2] + frames[1] + frames[3] + frames[4] + "\n\n",
	} {
		_, err := readStream(mutant)
		require.Error(t, err, name)
	}
}

func TestFailure_HasOpenAIsEnvelope(t *testing.T) {
	failure := api.Invalid("no %q", "x")
	require.JSONEq(t, `{"error":{"message":"no \"x\"","type":"invalid_request_error","param":null,"code":null}}`,
		string(Failure(api.Envelope("req_1", failure))))
	failure.Code = "some_code"
	require.JSONEq(t, `{"error":{"message":"no \"x\"","type":"invalid_request_error","param":null,"code":"some_code"}}`,
		string(Failure(api.Envelope("req_1", failure))))
}

func TestModels_IsOpenAIsList(t *testing.T) {
	models := Models([]byte(`{"data":[{"type":"model","id":"haiku","created_at":"2026-11-27T12:00:00Z"},
		{"type":"model","id":"old"}],"has_more":false,"first_id":"a","last_id":"b"}`))
	require.JSONEq(t, `{"object":"list","data":[
		{"id":"haiku","object":"model","created":1795780800,"owned_by":"anthropic"},
		{"id":"old","object":"model","created":0,"owned_by":"anthropic"}]}`, string(models))
	require.JSONEq(t, `{"object":"list","data":[]}`, string(Models([]byte(`{"data":[]}`))))
}
