package api

import (
	"encoding/json"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"
)

// Message is one message of a conversation. Content is a JSON string or an array of content blocks, as it was sent.
type Message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// textIn is the bytes as a text that shares them, as a body of 32 MiB is not to be copied for each look at it. Nobody
// writes to bytes once they are read.
func textIn(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) // #nosec G103 -- see above
}

// part is where in the body a value stands that was found in textIn(body).
func part(body []byte, value gjson.Result) json.RawMessage {
	return body[value.Index : value.Index+len(value.Raw) : value.Index+len(value.Raw)]
}

func (m Message) parsed() gjson.Result { return gjson.Parse(textIn(m.Content)) }

// blocks calls each for each content block, of a string for the one it stands for, until that returns false.
func (m Message) blocks(each func(kind string, block gjson.Result) bool) {
	content := m.parsed()
	if content.Type == gjson.String {
		each("text", gjson.Parse(`{"type":"text","text":`+content.Raw+`}`))
		return
	}
	content.ForEach(func(_, block gjson.Result) bool { return each(block.Get("type").Str, block) })
}

// Merged are messages as the API takes them: those of one role that follow each other are one, whatever is left out of
// the assistant's is gone, and marks for caching are too, as the CLI sets its own.
func Merged(messages []Message) []Message {
	var merged []Message
	for i := 0; i < len(messages); {
		end := i + 1
		for end < len(messages) && (messages[end].Role == messages[i].Role || messages[end].isEmpty()) {
			end++
		}
		if m := merge(messages[i:end]); !m.isEmpty() {
			merged = append(merged, m)
		}
		i = end
	}
	return merged
}

// isEmpty reports whether it is an assistant's message that says and does nothing.
func (m Message) isEmpty() bool {
	if m.Role != "assistant" {
		return false
	}
	empty := true
	m.blocks(func(kind string, block gjson.Result) bool {
		empty = empty && isLeftOut(kind, block)
		return empty
	})
	return empty
}

// isLeftOut reports whether the API is not to see an assistant's block: it refuses texts without a word and thinking
// without a signature, as is left of an answer that was cut, and the calls in an answer of /v1/messages are of no
// server it knows.
func isLeftOut(kind string, block gjson.Result) bool {
	switch kind {
	case "text":
		return isBlank(block.Get("text").Str)
	case "thinking":
		return block.Get("signature").Str == ""
	}
	return kind == "mcp_tool_use" || kind == "mcp_tool_result"
}

// merge makes one message of several of the same role. Tool results come first, as the API wants them.
func merge(messages []Message) Message {
	if len(messages) == 1 && !messages[0].hasLeftOut() {
		return messages[0].withoutCacheMarks()
	}
	var results, others [][]byte
	for _, m := range messages {
		m.blocks(func(kind string, block gjson.Result) bool {
			raw, _ := withoutCacheMark(block)
			switch {
			case kind == "tool_result":
				results = append(results, raw)
			case m.Role == "user" || !isLeftOut(kind, block):
				others = append(others, raw)
			}
			return true
		})
	}
	return Message{Role: messages[0].Role, Content: list(append(results, others...))}
}

// hasLeftOut reports whether one of an assistant's blocks is left out.
func (m Message) hasLeftOut() (has bool) {
	if m.Role == "user" {
		return false
	}
	m.blocks(func(kind string, block gjson.Result) bool {
		has = isLeftOut(kind, block)
		return !has
	})
	return has
}

// list is a JSON array of values.
func list(values [][]byte) []byte {
	all := []byte{'['}
	for i, v := range values {
		if i > 0 {
			all = append(all, ',')
		}
		all = append(all, v...)
	}
	return append(all, ']')
}

// withoutCacheMarks is the message itself if it has none.
func (m Message) withoutCacheMarks() Message {
	content, changed := withoutMarks(m.parsed())
	if !changed {
		return m
	}
	return Message{Role: m.Role, Content: content}
}

// withoutMarks takes cache_control out of an array of content blocks, and out of those within them.
func withoutMarks(content gjson.Result) (raw []byte, changed bool) {
	if !content.IsArray() || !strings.Contains(content.Raw, "cache_control") && !strings.Contains(content.Raw, `\u`) {
		return []byte(content.Raw), false // of which there may be much
	}
	raw = append(make([]byte, 0, len(content.Raw)), '[') // at once: there can be millions of values
	content.ForEach(func(_, block gjson.Result) bool {
		if len(raw) > 1 {
			raw = append(raw, ',')
		}
		if !block.IsObject() {
			raw = append(raw, block.Raw...)
			return true
		}
		b, c := withoutCacheMark(block)
		raw, changed = append(raw, b...), changed || c
		return true
	})
	return append(raw, ']'), changed
}

func withoutCacheMark(block gjson.Result) (raw []byte, changed bool) {
	if !block.IsObject() {
		return []byte(block.Raw), false
	}
	raw = []byte{'{'}
	block.ForEach(func(key, value gjson.Result) bool {
		part, c := []byte(value.Raw), false
		switch key.Str {
		case "cache_control":
			changed = true
			return true
		case "content": // of a tool's result, a search result, a document's source
			part, c = withoutMarks(value)
		case "source":
			part, c = withoutCacheMark(value)
		}
		changed = changed || c
		if len(raw) > 1 {
			raw = append(raw, ',')
		}
		raw = append(append(append(raw, key.Raw...), ':'), part...)
		return true
	})
	return append(raw, '}'), changed
}

// toolResults parts what tools said, if they said anything, from the rest of a message.
func (m Message) toolResults() (results []Message, others Message) {
	if m.parsed().Type == gjson.String {
		return nil, m
	}
	var said, rest [][]byte
	m.blocks(func(kind string, block gjson.Result) bool {
		if kind == "tool_result" {
			said = append(said, []byte(block.Raw))
		} else {
			rest = append(rest, []byte(block.Raw))
		}
		return true
	})
	if said == nil {
		return nil, m
	}
	return []Message{{m.Role, list(said)}}, Message{m.Role, list(rest)}
}

// onlyToolResults reports whether a message is nothing but what tools said.
func (m Message) onlyToolResults() bool {
	if !strings.HasPrefix(textIn(m.Content), "[") {
		return false // as most
	}
	only := true
	m.blocks(func(kind string, _ gjson.Result) bool {
		only = kind == "tool_result"
		return only
	})
	return only
}

// mostValues is how many values a block may have to be taken by its meaning: images and documents have a handful, and
// of each value a map is made that takes hundreds of bytes.
const mostValues = 1000

// canonical writes a block in the one way in which all who mean the same write it.
func canonical(block gjson.Result) string {
	if strings.Count(block.Raw, ",")+strings.Count(block.Raw, "[")+strings.Count(block.Raw, "{") > mostValues {
		return block.Raw
	}
	raw, _ := withoutCacheMark(block)
	var value any
	decoder := json.NewDecoder(strings.NewReader(textIn(raw)))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil {
		return block.Raw // never: it is valid
	}
	text, _ := json.Marshal(value) // with keys in order; what was decoded can be encoded
	return string(text)
}
