package chat

import (
	"net/http"

	"github.com/tidwall/gjson"

	"claudepool/function/messages"
	"claudepool/pool/api"
)

// Asked is what a client wants to have of its answer. It keeps nothing of the request.
type Asked struct {
	messages.Asked
	Usage bool // a stream is to end with what the turn took
}

// Decode translates and validates a request. pooled is its body in the pooled contract's shape. The error is an
// *api.Error of the 4xx kind.
func Decode(body []byte, header http.Header) (req *api.Request, pooled []byte, asked *Asked, err error) {
	whole, err := api.Object(body)
	if err != nil {
		return nil, nil, nil, err
	}
	t := translation{sent: make(map[string]gjson.Result), out: make([]byte, 0, len(body)+usualGrowth)}
	if err = t.translate(whole); err != nil {
		return nil, nil, nil, err
	}
	if header.Get(messages.HeaderTools) == messages.Show {
		return nil, nil, nil, api.Invalid("x-claudepool-tools: what tools do can't be shown here")
	}
	req, pooled, as, err := messages.Decode(t.out, header)
	if err != nil {
		return nil, nil, nil, err
	}
	as.HideTools, as.Paragraphs, as.Ignored = true, true, t.ignored
	return req, pooled, &Asked{Asked: *as, Usage: t.sent["stream_options"].Get("include_usage").Bool()}, nil
}

// usualGrowth is by how many bytes a request becomes longer at most, if it is of few parts.
const usualGrowth = 1 << 10

// translation is a request on its way to the Messages API.
type translation struct {
	sent    map[string]gjson.Result // the parameters that have an effect
	ignored messages.Ignored
	system  []byte // text blocks
	out     []byte // the request of the Messages API
}

func (t *translation) translate(whole gjson.Result) error {
	if err := t.read(whole); err != nil {
		return err
	}
	t.out = append(t.out, `{"max_tokens":1,"messages":[`...) // which is required there, and has no effect
	if err := t.conversation(t.sent["messages"]); err != nil {
		return err
	}
	t.out = append(t.out, ']')
	for _, name := range []string{"model", "stream"} {
		if value := t.sent[name]; value.Exists() {
			t.out = append(append(append(t.out, `,"`...), name...), `":`...)
			t.out = append(t.out, value.Raw...)
		}
	}
	if len(t.system) > 0 {
		t.out = append(append(append(t.out, `,"system":[`...), t.system...), ']')
	}
	t.out = append(append(t.out, t.thinking()...), '}')
	return nil
}

// known are the parameters that have an effect.
var known = map[string]bool{"model": true, "messages": true, "stream": true, "stream_options": true,
	"reasoning_effort": true}

// refused are the parameters that would change the answer and can't be had, with the one value that asks for nothing.
var refused = map[string]string{"tools": `[]`, "tool_choice": "", "functions": `[]`, "function_call": "", "n": `1`,
	"response_format": `{"type":"text"}`, "logprobs": `false`, "top_logprobs": `0`, "audio": "", "modalities": `["text"]`}

// read looks at each parameter once, as there may be megabytes between them.
func (t *translation) read(whole gjson.Result) (err error) {
	whole.ForEach(func(name, value gjson.Result) bool {
		nothing, isRefused := refused[name.Str]
		switch {
		case !isSet(value):
		case known[name.Str]:
			t.sent[name.Str] = value
		case !isRefused:
			t.ignored.Add(name.Str)
		case value.Get("@ugly").Raw != nothing:
			err = api.Invalid("%s: is not supported here", name.Str)
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	return t.readOptions()
}

func (t *translation) readOptions() error {
	options, effort := t.sent["stream_options"], t.sent["reasoning_effort"]
	switch usage := options.Get("include_usage"); {
	case options.Exists() && !options.IsObject():
		return api.Invalid("stream_options: must be an object")
	case isSet(usage) && !usage.IsBool():
		return api.Invalid("stream_options.include_usage: must be true or false")
	case effort.Exists() && effort.Type != gjson.String:
		return api.Invalid("reasoning_effort: must be a string")
	}
	options.ForEach(func(name, value gjson.Result) bool {
		if name.Str != "include_usage" && isSet(value) {
			t.ignored.Add("stream_options." + name.Str)
		}
		return true
	})
	return nil
}

// isSet reports whether a field is there and isn't null.
func isSet(value gjson.Result) bool { return value.Exists() && value.Type != gjson.Null }

// thinking is on or off: how much there is of it is the model's.
func (t *translation) thinking() string {
	switch t.sent["reasoning_effort"].Str {
	case "":
		return ""
	case "none":
		return `,"thinking":{"type":"disabled"}`
	}
	t.ignored.Add("reasoning_effort")
	return `,"thinking":{"type":"adaptive"}`
}
