// Package grammar checks streams of the Messages API as the official clients read them. It shares nothing with what it
// checks.
package grammar

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// Message is what a client has accumulated of a stream.
type Message struct {
	Head   gjson.Result // as it began
	Blocks []Block      // nil are those that have become void
	Last   gjson.Result // the message_delta
	Failed gjson.Result // the error event, if there was one

	state string         // "", begun, ended, over
	open  int            // index of the open block, or -1
	calls map[string]int // of tools, by id: the block; -1 once there is a result
}

// Block has a block's values by name: texts as they are, all else in JSON.
type Block map[string]string

var stopReasons = []string{"end_turn", "max_tokens", "stop_sequence", "refusal"}

var deltasOf = map[string][]string{"text": {"text_delta", "citations_delta"},
	"thinking":        {"thinking_delta", "signature_delta"},
	"server_tool_use": {"input_json_delta"}}

// Check reads a whole stream. Its error says where that isn't as clients expect.
func Check(stream []byte) (*Message, error) {
	m := newMessage()
	if !bytes.HasSuffix(stream, []byte("\n\n")) {
		return m, fmt.Errorf("the stream ends within an event")
	}
	for frame := range strings.SplitSeq(strings.TrimSuffix(string(stream), "\n\n"), "\n\n") {
		if err := m.frame(frame); err != nil {
			return m, fmt.Errorf("%w in %q", err, frame)
		}
	}
	if m.state != "over" {
		return m, fmt.Errorf("the stream has no end")
	}
	return m, nil
}

func newMessage() *Message { return &Message{open: -1, calls: make(map[string]int)} }

// Whole reads a message that wasn't streamed.
func Whole(message []byte) (*Message, error) {
	m := newMessage()
	if !gjson.ValidBytes(message) {
		return m, fmt.Errorf("no JSON: %s", message)
	}
	m.Head = gjson.ParseBytes(message)
	for i, block := range m.Head.Get("content").Array() {
		m.open = i
		if err := m.begin(block); err != nil {
			return m, fmt.Errorf("%w in %s", err, message)
		}
	}
	return m, m.answered()
}

func (m *Message) frame(frame string) error {
	name, data := "", ""
	for line := range strings.SplitSeq(frame, "\n") {
		switch field, value, _ := strings.Cut(line, ": "); field {
		case "event":
			name = value
		case "data":
			data = value
		case "":
		default:
			return fmt.Errorf("unknown field")
		}
	}
	event := gjson.Parse(data)
	switch {
	case name == "" || !gjson.Valid(data) || event.Get("type").Str != name:
		return fmt.Errorf("no event that a client sees")
	case name == "ping":
		return nil
	case m.state == "over":
		return fmt.Errorf("an event behind the end")
	case name == "error":
		m.state, m.Failed = "over", event
		if event.Get("error.type").Str == "" || event.Get("error.message").Str == "" {
			return fmt.Errorf("an error without its envelope")
		}
		return nil
	case m.state == "ended":
		if name != "message_stop" {
			return fmt.Errorf("something between message_delta and message_stop")
		}
		m.state = "over"
		return nil
	case m.state == "":
		return m.start(name, event.Get("message"))
	}
	return m.event(name, event)
}

func (m *Message) start(name string, head gjson.Result) error {
	m.state, m.Head = "begun", head
	switch {
	case name != "message_start":
		return fmt.Errorf("before message_start")
	case head.Get("type").Str != "message" || head.Get("role").Str != "assistant" || head.Get("id").Str == "" ||
		head.Get("model").Str == "":
		return fmt.Errorf("no message")
	case head.Get("content").Raw != "[]" || head.Get("stop_reason").Type != gjson.Null:
		return fmt.Errorf("a message that isn't at its beginning")
	}
	return counts(head.Get("usage"))
}

func counts(usage gjson.Result) error {
	for _, name := range []string{"input_tokens", "output_tokens"} {
		if usage.Get(name).Type != gjson.Number {
			return fmt.Errorf("no usage")
		}
	}
	return nil
}

func (m *Message) event(name string, event gjson.Result) error {
	index := int(event.Get("index").Int())
	switch name {
	case "content_block_start":
		if m.open >= 0 || index != len(m.Blocks) || event.Get("index").Type != gjson.Number {
			return fmt.Errorf("a block out of order")
		}
		m.open = index
		return m.begin(event.Get("content_block"))
	case "content_block_delta":
		if index != m.open || !slices.Contains(deltasOf[m.Blocks[index]["type"]], event.Get("delta.type").Str) {
			return fmt.Errorf("a delta of another block")
		}
		for _, part := range []string{"text", "thinking", "signature"} {
			if more := event.Get("delta." + part); more.Exists() {
				m.Blocks[index][part] += more.Str
			}
		}
	case "content_block_stop":
		if index != m.open {
			return fmt.Errorf("the end of another block")
		}
		m.open = -1
	case "message_delta":
		return m.end(event)
	default:
		return fmt.Errorf("unexpected")
	}
	return nil
}

func (m *Message) begin(block gjson.Result) error {
	b := make(Block)
	block.ForEach(func(name, value gjson.Result) bool {
		b[name.Str] = value.Str
		if value.Type != gjson.String {
			b[name.Str] = value.Raw
		}
		return true
	})
	m.Blocks = append(m.Blocks, b)
	switch b["type"] {
	case "text", "thinking", "redacted_thinking", "server_tool_use":
	case "mcp_tool_use":
		if _, twice := m.calls[b["id"]]; twice || b["id"] == "" || b["name"] == "" || b["server_name"] == "" ||
			!block.Get("input").IsObject() {
			return fmt.Errorf("no call of a tool")
		}
		m.calls[b["id"]] = m.open
	case "mcp_tool_result":
		if at, called := m.calls[b["tool_use_id"]]; !called || at < 0 || !block.Get("is_error").IsBool() ||
			!block.Get("content").IsArray() {
			return fmt.Errorf("no result of a call")
		}
		m.calls[b["tool_use_id"]] = -1
	default:
		return fmt.Errorf("a block of unknown type")
	}
	return nil
}

func (m *Message) end(event gjson.Result) error {
	if m.open >= 0 || !slices.Contains(stopReasons, event.Get("delta.stop_reason").Str) {
		return fmt.Errorf("no end of a message")
	}
	m.state, m.Last = "ended", event
	for _, index := range event.Get("claudepool_void").Array() {
		if i := int(index.Int()); i >= len(m.Blocks) || m.Blocks[i] == nil {
			return fmt.Errorf("a void block that there isn't")
		}
		m.Blocks[index.Int()] = nil
	}
	if err := m.answered(); err != nil {
		return err
	}
	return counts(event.Get("usage"))
}

// answered checks that the calls of tools which count have their results.
func (m *Message) answered() error {
	for id, at := range m.calls {
		if at >= 0 && m.Blocks[at] != nil {
			return fmt.Errorf("no result of the call %s", id)
		}
	}
	return nil
}

// Content are the blocks that count.
func (m *Message) Content() []Block {
	return slices.DeleteFunc(slices.Clone(m.Blocks), func(b Block) bool { return b == nil })
}

// Said joins a part of all blocks of a type.
func Said(blocks []Block, kind, part string) (all string) {
	for _, b := range blocks {
		if b["type"] == kind {
			all += b[part]
		}
	}
	return all
}
