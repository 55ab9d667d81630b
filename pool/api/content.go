package api

import (
	"strings"

	"github.com/tidwall/gjson"
)

func (r *Request) validateMessages() error {
	if len(r.Messages) == 0 {
		return Invalid("messages: at least one is required")
	}
	for i, m := range r.Messages {
		if m.Role != "user" && m.Role != "assistant" {
			return Invalid("messages.%d.role: must be user or assistant", i)
		}
		if err := validateContent(i, m); err != nil {
			return err
		}
	}
	if r.Turn().Role != "user" {
		return Invalid("messages: the last must be from the user")
	}
	if r.Turn().onlyToolResults() && len(r.ClientTools) == 0 {
		return Invalid("messages: the last must hold more than tool results")
	}
	if r.Messages[0].Role != "user" {
		return Invalid("messages: the first must be from the user")
	}
	return validateTools(r.Messages)
}

// blockTypes are the kinds of content a message may hold, by the role that wrote it.
var blockTypes = map[string]map[string]bool{
	"user": {"text": true, "image": true, "document": true, "tool_result": true, "search_result": true},
	"assistant": {"text": true, "tool_use": true, "thinking": true, "redacted_thinking": true,
		"server_tool_use": true, "web_search_tool_result": true, "web_fetch_tool_result": true,
		"mcp_tool_use": true, "mcp_tool_result": true},
}

func validateContent(i int, m Message) error {
	content := m.parsed()
	if content.Type == gjson.String {
		if isBlank(content.Str) && m.Role == "user" {
			return Invalid("messages.%d.content: must not be empty", i)
		}
		return nil
	}
	if !content.IsArray() {
		return Invalid("messages.%d.content: must be a string or an array of content blocks", i)
	}
	j, err := -1, error(nil)
	content.ForEach(func(_, block gjson.Result) bool { // one at a time: an array of results is many times its text
		j++
		kind := block.Get("type")
		if !block.IsObject() || kind.Type != gjson.String || !blockTypes[m.Role][kind.Str] {
			err = Invalid("messages.%d.content.%d.type: not a content block this role may hold", i, j)
		} else if text := block.Get("text"); kind.Str == "text" && (text.Type != gjson.String || isBlank(text.Str) &&
			m.Role == "user") {
			err = Invalid("messages.%d.content.%d.text: must be a string that is not empty", i, j)
		}
		return err == nil
	})
	if j < 0 && m.Role == "user" {
		return Invalid("messages.%d.content: must not be empty", i)
	}
	return err
}

// isBlank reports whether a text has nothing but white space. The API refuses such a text; an assistant's may have been
// kept all the same, and counts as left out.
func isBlank(text string) bool { return strings.TrimSpace(text) == "" }

// validateTools requires that each tool call has its result in the user's next message, and each result its call
// before.
func validateTools(messages []Message) error {
	calls := make(map[string]int) // by id: the message that has the call, as long as there is no result
	before := ""
	for i, m := range messages {
		if m.Role == "assistant" && before == "user" {
			if err := unanswered(calls); err != nil {
				return err
			}
		}
		before = m.Role
		if err := matchTools(i, m, calls); err != nil {
			return err
		}
	}
	return unanswered(calls)
}

func matchTools(i int, m Message, calls map[string]int) (err error) {
	if m.parsed().Type == gjson.String {
		return nil
	}
	m.blocks(func(kind string, block gjson.Result) bool {
		switch kind {
		case "tool_use":
			calls[block.Get("id").Str] = i
		case "tool_result":
			id := block.Get("tool_use_id").Str
			if _, there := calls[id]; !there {
				err = Invalid("messages.%d.content: a tool result without its tool call in the message before", i)
			}
			delete(calls, id)
		}
		return err == nil
	})
	return err
}

// unanswered refuses tool calls without a result, naming the first message that has one.
func unanswered(calls map[string]int) error {
	first := -1
	for _, i := range calls {
		if first < 0 || i < first {
			first = i
		}
	}
	if first >= 0 {
		return Invalid("messages.%d.content: a tool call without its result in the next message", first)
	}
	return nil
}
