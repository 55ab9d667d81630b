package chat

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// Answer writes the Messages API's answer to a request as a chat completion: what is said, and nothing of thinking or
// tools. It is for one goroutine.
//
// In a stream of this shape nothing can be taken back. Where the CLI begins an answer anew, what was streamed of it
// stays: the remainder follows or, if the new one begins otherwise, all of that. Such a conversation is found by what
// was streamed.
type Answer struct {
	usage   bool
	created int64
	id      string
	model   string
}

// NewAnswer returns an Answer of that time.
func NewAnswer(asked *Asked, created time.Time) *Answer {
	return &Answer{usage: asked.Usage, created: created.Unix()}
}

// completion is a chat completion, or a chunk of one.
type completion struct {
	ID      string          `json:"id"`
	Object  string          `json:"object"`
	Created int64           `json:"created"`
	Model   string          `json:"model"`
	Choices []choice        `json:"choices"`
	Usage   json.RawMessage `json:"usage,omitempty"`
}

type choice struct {
	Index        int       `json:"index"`
	Delta        *said     `json:"delta,omitempty"`
	Message      *message  `json:"message,omitempty"`
	LogProbs     *struct{} `json:"logprobs"`
	FinishReason *string   `json:"finish_reason"`
}

// said is what a chunk adds.
type said struct {
	Role    string          `json:"role,omitempty"`
	Content json.RawMessage `json:"content,omitempty"`
}

type message struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

// Event appends what an event of the Messages API's stream becomes.
//
// An error is the last that there is, with no [DONE] behind it: OpenAI's clients fail at a line with an error and read
// no further, and to whoever takes such a line for a chunk a [DONE] would say that all went well.
func (a *Answer) Event(to []byte, name string, data []byte) []byte {
	switch name {
	case "ping":
		return append(to, api.Ping...)
	case "error":
		return frame(to, Failure(data))
	case "message_start":
		a.begin(gjson.GetBytes(data, "message"))
		return a.chunk(to, said{Role: "assistant", Content: json.RawMessage(`""`)}, nil)
	case "content_block_delta":
		if delta := gjson.GetBytes(data, "delta"); delta.Get("type").Str == "text_delta" {
			return a.chunk(to, said{Content: json.RawMessage(delta.Get("text").Raw)}, nil)
		}
	case "message_delta":
		return a.end(to, gjson.ParseBytes(data))
	case "message_stop":
		return append(to, api.Done...)
	}
	return to
}

// begin takes over what the message says of itself.
func (a *Answer) begin(m gjson.Result) {
	a.id = "chatcmpl-" + strings.TrimPrefix(m.Get("id").Str, "msg_")
	a.model = strings.Clone(m.Get("model").Str)
}

func (a *Answer) chunk(to []byte, delta said, finish *string) []byte {
	var usage json.RawMessage
	if a.usage {
		usage = json.RawMessage(`null`)
	}
	return a.frame(to, []choice{{Delta: &delta, FinishReason: finish}}, usage)
}

func (a *Answer) end(to []byte, event gjson.Result) []byte {
	to = a.chunk(to, said{}, finishReason(event.Get("delta.stop_reason").Str))
	if !a.usage {
		return to
	}
	return a.frame(to, []choice{}, usageOf(event.Get("usage")))
}

func (a *Answer) frame(to []byte, choices []choice, usage json.RawMessage) []byte {
	raw, _ := json.Marshal(a.completion("chat.completion.chunk", choices, usage)) // of what is JSON: can't fail
	return frame(to, raw)
}

func frame(to, data []byte) []byte {
	return append(append(append(to, "data: "...), data...), "\n\n"...)
}

// Whole is the completion that a message is which was not streamed.
func (a *Answer) Whole(raw []byte) []byte {
	m := gjson.ParseBytes(raw)
	a.begin(m)
	var text strings.Builder
	m.Get("content").ForEach(func(_, block gjson.Result) bool {
		if block.Get("type").Str == "text" {
			text.WriteString(block.Get("text").Str)
		}
		return true
	})
	only := choice{
		Message:      &message{Role: "assistant", Content: text.String()},
		FinishReason: finishReason(m.Get("stop_reason").Str),
	}
	whole, _ := json.Marshal(a.completion("chat.completion", []choice{only}, usageOf(m.Get("usage")))) // the same
	return whole
}

func (a *Answer) completion(kind string, choices []choice, usage json.RawMessage) completion {
	return completion{ID: a.id, Object: kind, Created: a.created, Model: a.model, Choices: choices, Usage: usage}
}

func finishReason(stop string) *string {
	reason := "stop"
	switch stop {
	case "max_tokens":
		reason = "length"
	case "refusal":
		reason = "content_filter"
	}
	return &reason
}

// usageOf is what the turn took. Here the prompt's tokens are all of it, also those that were cached.
func usageOf(used gjson.Result) json.RawMessage {
	cached, output := used.Get("cache_read_input_tokens").Int(), used.Get("output_tokens").Int()
	input := used.Get("input_tokens").Int() + used.Get("cache_creation_input_tokens").Int() + cached
	type details struct {
		Cached int64 `json:"cached_tokens"`
	}
	raw, _ := json.Marshal(struct { // of numbers: can't fail
		Prompt     int64   `json:"prompt_tokens"`
		Completion int64   `json:"completion_tokens"`
		Total      int64   `json:"total_tokens"`
		Details    details `json:"prompt_tokens_details"`
	}{input, output, input + output, details{cached}})
	return raw
}
