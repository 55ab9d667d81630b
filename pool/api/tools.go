package api

import (
	"encoding/json"
	"errors"
	"regexp"

	"github.com/tidwall/gjson"
)

// Tool is one that the request's client runs: a call of it ends the answer, and the client's next request has the
// result.
type Tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	InputSchema json.RawMessage `json:"input_schema"`
}

// ToolCall is a call of such a tool.
type ToolCall struct {
	ID    string          `json:"id"` // the model's
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input"`
}

// ToolServer is the MCP server that the client's tools belong to where a process is offered them, and ToolPrefix what
// their names begin with there.
const (
	ToolServer = "client"
	ToolPrefix = "mcp__" + ToolServer + "__"
)

// TypeToolCalls is the type of the event that ends the stream of a turn that waits for what the client's tools say.
const TypeToolCalls = "client_tool_calls"

// ToolCallsEvent is that event's data.
func ToolCallsEvent(calls []ToolCall) []byte {
	b, _ := json.Marshal(struct { // of strings and what was JSON before: can't fail
		Type  string     `json:"type"`
		Calls []ToolCall `json:"calls"`
	}{TypeToolCalls, calls})
	return b
}

const (
	// maxTools and maxToolsSize are how many tools a request may have, and how many bytes of JSON all together: they are
	// kept for as long as their process lives.
	maxTools     = 256
	maxToolsSize = 256 << 10
)

// toolForm leaves room for ToolPrefix in what the API takes for a name.
var toolForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (r *Request) validateClientTools() error {
	if len(r.ClientTools) == 0 {
		return nil
	}
	if len(r.ClientTools) > maxTools {
		return Invalid("tools: at most %d are accepted", maxTools)
	}
	size, names := 0, make(map[string]bool)
	for i, t := range r.ClientTools {
		schema := gjson.ParseBytes(t.InputSchema)
		switch {
		case !toolForm.MatchString(t.Name):
			return Invalid("tools.%d.name: must match %s", i, toolForm)
		case names[t.Name]:
			return Invalid("tools.%d.name: another tool has this name", i)
		case !schema.IsObject() || schema.Get("type").Str != "object":
			return Invalid("tools.%d.input_schema: must be a JSON schema of the type object", i)
		}
		var err error
		if r.ClientTools[i].InputSchema, err = plainSchema(schema); err != nil {
			return Invalid("tools.%d.input_schema.%s", i, err)
		}
		names[t.Name] = true
		size += len(t.Name) + len(t.Description) + len(t.InputSchema)
	}
	if size > maxToolsSize {
		return Invalid("tools: must not be longer than %d bytes in all", maxToolsSize)
	}
	return r.validateResults()
}

// plainSchema is a schema without the fields that are null, as some clients write what is empty. A CLI takes none of a
// request's tools if the schema of one is odd there, without a word.
func plainSchema(schema gjson.Result) (json.RawMessage, error) {
	fields := make(map[string]json.RawMessage)
	schema.ForEach(func(key, value gjson.Result) bool {
		if value.Type != gjson.Null {
			fields[key.Str] = json.RawMessage(value.Raw)
		}
		return true
	})
	if p := schema.Get("properties"); fields["properties"] != nil && !p.IsObject() {
		return nil, errors.New("properties: must be an object")
	}
	names := schema.Get("required")
	areStrings := names.IsArray() && allStrings(names, func(string) bool { return true })
	if fields["required"] != nil && !areStrings {
		return nil, errors.New("required: must be an array of strings")
	}
	return json.Marshal(fields)
}

// resultTypes are the kinds of content that the result of a client's tool may hold.
var resultTypes = map[string]bool{"text": true, "image": true}

// validateResults checks what a tool said whose result is passed on to a process: not all that may stand in a history
// can be.
func (r *Request) validateResults() (err error) {
	results, beside := r.Answered()
	refuse := func(kind string, block gjson.Result) bool {
		if !resultTypes[kind] || kind == "image" && block.Get("source.type").Str != "base64" {
			err = Invalid("messages: the results of tools, and what stands beside them, may hold texts and base64 images only")
		}
		return err == nil
	}
	if len(results) == 0 {
		return nil
	}
	for _, result := range results {
		result.Content.blocks(refuse)
	}
	beside.blocks(refuse)
	return err
}

// ToolResult is what a client's tool said. The content is that of a message, and may be empty.
type ToolResult struct {
	ID      string // of the call
	IsError bool
	Content Message
}

// Answered is what tools said to which nobody has answered yet, and what the user has said with it.
func (r *Request) Answered() (results []ToolResult, beside Message) {
	all, beside := asked(Reading{Asked: r.Messages[r.firstUnanswered():]}).toolResults()
	for _, m := range all {
		m.blocks(func(_ string, block gjson.Result) bool {
			content := json.RawMessage(`[]`)
			if c := block.Get("content"); c.Type == gjson.String || c.IsArray() {
				content = json.RawMessage(c.Raw)
			}
			results = append(results, ToolResult{ID: block.Get("tool_use_id").Str, IsError: block.Get("is_error").Bool(),
				Content: Message{Role: "user", Content: content}})
			return true
		})
	}
	return results, beside
}

// HasResults reports whether the request has what the client's tools said to what the answer before has called.
func (r *Request) HasResults() bool {
	if len(r.ClientTools) == 0 {
		return false
	}
	results, _ := r.Answered()
	return len(results) > 0
}

// Blocks are the message's content blocks, as JSON.
func (m Message) Blocks() (blocks []gjson.Result) {
	m.blocks(func(_ string, block gjson.Result) bool {
		blocks = append(blocks, block)
		return true
	})
	return blocks
}

// WithToolsNamed is an assistant's message in which the client's tools have the names that a process knows them by.
func (m Message) WithToolsNamed(tools map[string]bool) Message {
	if m.Role != "assistant" || len(tools) == 0 || m.parsed().Type == gjson.String {
		return m
	}
	var blocks [][]byte
	changed := false
	m.blocks(func(kind string, block gjson.Result) bool {
		raw := []byte(block.Raw)
		if kind == "tool_use" && tools[block.Get("name").Str] {
			raw, changed = renamed(block), true
		}
		blocks = append(blocks, raw)
		return true
	})
	if !changed {
		return m
	}
	return Message{Role: m.Role, Content: list(blocks)}
}

func renamed(block gjson.Result) []byte {
	fields := make(map[string]json.RawMessage)
	block.ForEach(func(key, value gjson.Result) bool {
		fields[key.Str] = json.RawMessage(value.Raw)
		return true
	})
	fields["name"], _ = json.Marshal(ToolPrefix + block.Get("name").Str) // a string: can't fail
	raw, _ := json.Marshal(fields)                                       // of what was JSON before
	return raw
}
