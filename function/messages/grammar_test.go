package messages

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// grammar checks a stream of the Messages API as the official clients read it, and accumulates the message as they do.
// It shares nothing with what it checks.
type grammar struct {
	state  string // "", begun, ended, over
	open   int    // index of the open block, or -1
	blocks []map[string]string
	calls  map[string]int // of tools, by id: the block; -1 once there is a result
	last   gjson.Result   // the message_delta
	failed gjson.Result
	head   gjson.Result
}

var stopReasons = []string{"end_turn", "max_tokens", "stop_sequence", "refusal"}

var deltasOf = map[string][]string{"text": {"text_delta", "citations_delta"},
	"thinking":        {"thinking_delta", "signature_delta"},
	"server_tool_use": {"input_json_delta"}}

// checkGrammar reads a whole stream.
func checkGrammar(stream string) (*grammar, error) {
	g := &grammar{open: -1, calls: make(map[string]int)}
	if !strings.HasSuffix(stream, "\n\n") {
		return g, fmt.Errorf("the stream ends within an event")
	}
	for frame := range strings.SplitSeq(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		if err := g.frame(frame); err != nil {
			return g, fmt.Errorf("%w in %q", err, frame)
		}
	}
	if g.state != "over" {
		return g, fmt.Errorf("the stream has no end")
	}
	return g, nil
}

func (g *grammar) frame(frame string) error {
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
	case g.state == "over":
		return fmt.Errorf("an event behind the end")
	case name == "error":
		g.state, g.failed = "over", event
		if event.Get("error.type").Str == "" || event.Get("error.message").Str == "" {
			return fmt.Errorf("an error without its envelope")
		}
		return nil
	case g.state == "ended":
		if name != "message_stop" {
			return fmt.Errorf("something between message_delta and message_stop")
		}
		g.state = "over"
		return nil
	case g.state == "":
		return g.start(name, event.Get("message"))
	}
	return g.event(name, event)
}

func (g *grammar) start(name string, m gjson.Result) error {
	g.state, g.head = "begun", m
	switch {
	case name != "message_start":
		return fmt.Errorf("before message_start")
	case m.Get("type").Str != "message" || m.Get("role").Str != "assistant" || m.Get("id").Str == "" ||
		m.Get("model").Str == "":
		return fmt.Errorf("no message")
	case m.Get("content").Raw != "[]" || m.Get("stop_reason").Type != gjson.Null:
		return fmt.Errorf("a message that isn't at its beginning")
	}
	return counts(m.Get("usage"))
}

func counts(usage gjson.Result) error {
	for _, name := range []string{"input_tokens", "output_tokens"} {
		if usage.Get(name).Type != gjson.Number {
			return fmt.Errorf("no usage")
		}
	}
	return nil
}

func (g *grammar) event(name string, event gjson.Result) error {
	index := int(event.Get("index").Int())
	switch name {
	case "content_block_start":
		if g.open >= 0 || index != len(g.blocks) || event.Get("index").Type != gjson.Number {
			return fmt.Errorf("a block out of order")
		}
		g.open = index
		return g.begin(event.Get("content_block"))
	case "content_block_delta":
		if index != g.open || !slices.Contains(deltasOf[g.blocks[index]["type"]], event.Get("delta.type").Str) {
			return fmt.Errorf("a delta of another block")
		}
		for _, part := range []string{"text", "thinking", "signature"} {
			if more := event.Get("delta." + part); more.Exists() {
				g.blocks[index][part] += more.Str
			}
		}
	case "content_block_stop":
		if index != g.open {
			return fmt.Errorf("the end of another block")
		}
		g.open = -1
	case "message_delta":
		return g.end(event)
	default:
		return fmt.Errorf("unexpected")
	}
	return nil
}

func (g *grammar) begin(block gjson.Result) error {
	b := make(map[string]string)
	block.ForEach(func(name, value gjson.Result) bool {
		b[name.Str] = value.Str
		if value.Type != gjson.String {
			b[name.Str] = value.Raw
		}
		return true
	})
	g.blocks = append(g.blocks, b)
	switch b["type"] {
	case "text", "thinking", "redacted_thinking", "server_tool_use":
	case "mcp_tool_use":
		if _, twice := g.calls[b["id"]]; twice || b["id"] == "" || b["name"] == "" || b["server_name"] == "" ||
			!block.Get("input").IsObject() {
			return fmt.Errorf("no call of a tool")
		}
		g.calls[b["id"]] = g.open
	case "mcp_tool_result":
		if at, called := g.calls[b["tool_use_id"]]; !called || at < 0 || !block.Get("is_error").IsBool() ||
			!block.Get("content").IsArray() {
			return fmt.Errorf("no result of a call")
		}
		g.calls[b["tool_use_id"]] = -1
	default:
		return fmt.Errorf("a block of unknown type")
	}
	return nil
}

func (g *grammar) end(event gjson.Result) error {
	if g.open >= 0 || !slices.Contains(stopReasons, event.Get("delta.stop_reason").Str) {
		return fmt.Errorf("no end of a message")
	}
	g.state, g.last = "ended", event
	for _, index := range event.Get("claudepool_void").Array() {
		if i := int(index.Int()); i >= len(g.blocks) || g.blocks[i] == nil {
			return fmt.Errorf("a void block that there isn't")
		}
		g.blocks[index.Int()] = nil
	}
	for id, at := range g.calls {
		if at >= 0 && g.blocks[at] != nil {
			return fmt.Errorf("no result of the call %s", id)
		}
	}
	return counts(event.Get("usage"))
}

// content are the blocks that count.
func (g *grammar) content() []map[string]string {
	return slices.DeleteFunc(slices.Clone(g.blocks), func(b map[string]string) bool { return b == nil })
}

// said joins a part of all blocks of a type.
func said(blocks []map[string]string, kind, part string) (all string) {
	for _, b := range blocks {
		if b["type"] == kind {
			all += b[part]
		}
	}
	return all
}
