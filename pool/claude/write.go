package claude

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// UserMessage is the line that begins a turn. The uuid ties the turn's lines to it; content is a JSON string or an
// array of content blocks.
//
// text_not_typed keeps the CLI from reading a text such as "/clear" as a command of its own: to an API client it is
// a message like any other, and a conversation that clears itself would lose its id. What the API receives is the same
// with and without the mark.
func UserMessage(uuid string, content json.RawMessage) []byte {
	return bytes.Join([][]byte{
		[]byte(`{"type":"user","uuid":"` + uuid +
			`","session_id":"","parent_tool_use_id":null,"text_not_typed":true,"message":{"role":"user","content":`),
		oneLine(content), []byte("}}\n")}, nil)
}

// SteeringMessage is the line of a message that belongs to a turn which runs already. With the priority "now" the turn
// is broken off for it; empty is the CLI's own way.
func SteeringMessage(uuid string, content json.RawMessage, priority string) []byte {
	text := UserMessage(uuid, content)
	if priority == "" {
		return text
	}
	return append([]byte(`{"priority":`+strconv.Quote(priority)+`,`), text[1:]...)
}

// oneLine is the JSON without line breaks, of which there is none in most: it can be long, and to write it anew takes
// long.
func oneLine(raw json.RawMessage) []byte {
	broken := false
	for _, end := range []string{"\n", "\r", "\u2028", "\u2029"} {
		broken = broken || bytes.Contains(raw, []byte(end))
	}
	if !broken {
		return raw
	}
	text, err := json.Marshal(raw) // which escapes the latter two
	if err != nil {
		panic("claude: " + err.Error()) // callers have checked it
	}
	return text
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// ControlRequest is the line that asks something of the CLI itself; its answer carries the same id.
func ControlRequest(id string, body any) []byte {
	return line(struct {
		Type      string `json:"type"`
		RequestID string `json:"request_id"`
		Request   any    `json:"request"`
	}{"control_request", id, body})
}

// controlResponse answers a control request of the CLI's own. It waits for an answer to each, so that one that stays
// unanswered hangs its turn.
type controlResponse struct {
	Subtype   string          `json:"subtype"`
	RequestID string          `json:"request_id"`
	Response  json.RawMessage `json:"response,omitempty"`
	Error     string          `json:"error,omitempty"`
}

// AnswerControl is the line that gives the CLI what it has asked for, an object.
func AnswerControl(id string, answer json.RawMessage) []byte {
	return controlResponse{Subtype: "success", RequestID: id, Response: answer}.line()
}

// RefuseControl is the line that tells the CLI that it gets no answer, and why.
func RefuseControl(id, why string) []byte {
	return controlResponse{Subtype: "error", RequestID: id, Error: why}.line()
}

func (r controlResponse) line() []byte {
	return line(struct {
		Type     string          `json:"type"`
		Response controlResponse `json:"response"`
	}{"control_response", r})
}

// CancelControl is the line by which the CLI gives a control request of its own up, without the line break.
func CancelControl(id string) []byte {
	return bytes.TrimSpace(line(struct {
		Type      string `json:"type"`
		RequestID string `json:"request_id"`
	}{"control_cancel_request", id}))
}

// Denial is an answer to can_use_tool by which the tool isn't run. The model reads why.
func Denial(why string) json.RawMessage {
	return line(map[string]string{"behavior": "deny", "message": why})
}

// The control requests this service makes. Each takes effect on a live process.
type (
	// Initialize is the handshake. AppendSystemPrompt counts on a process's first one only, as do agents and jsonSchema.
	Initialize struct {
		AppendSystemPrompt string
		More               json.RawMessage // an object of other fields; nil: there are none
	}
	// Interrupt ends the running turn. Before the turn's system/init it does nothing, without a word.
	Interrupt struct{}
	// SetModel changes the model of the following turns. Unknown names cost one API call that asks for them.
	SetModel struct{ Model string }
	// SetPermissionMode changes the permission mode of the following turns.
	SetPermissionMode struct{ Mode string }
	// SetThinking turns thinking on or off for models that can do without; the others keep thinking.
	SetThinking struct{ On bool }
	// SetMCPServers replaces the set of MCP servers; nil is none.
	SetMCPServers struct{ Servers json.RawMessage }
	// AllowServer lets the tools of an MCP server run in every permission mode without anybody being asked; empty lets
	// none.
	AllowServer struct{ Name string }
	// SideQuestion asks the API something beside the conversation, with all that a turn would send. It leaves nothing
	// in the conversation or its transcript, and a later Initialize still takes effect.
	SideQuestion struct{ Question string }
	// Rewind makes the conversation forget a user message and everything after it. It is not written to the
	// transcript until a later turn is: a process that resumes before that has to rewind again.
	Rewind struct{ UserMessageUUID string }
)

func (r Initialize) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(struct {
		Subtype            string `json:"subtype"`
		AppendSystemPrompt string `json:"appendSystemPrompt,omitempty"`
	}{"initialize", r.AppendSystemPrompt})
	if err == nil && len(r.More) > len("{}") {
		text = append(append(text[:len(text)-1], ','), r.More[1:]...)
	}
	return text, err
}

func (Interrupt) MarshalJSON() ([]byte, error) { return []byte(`{"subtype":"interrupt"}`), nil }

func (r SetModel) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"subtype": "set_model", "model": r.Model})
}

func (r SetPermissionMode) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"subtype": "set_permission_mode", "mode": r.Mode})
}

// MarshalJSON maps on to null, the CLI's own default (thinking), and off to a budget of nothing.
func (r SetThinking) MarshalJSON() ([]byte, error) {
	if r.On {
		return []byte(`{"subtype":"set_max_thinking_tokens","max_thinking_tokens":null}`), nil
	}
	return []byte(`{"subtype":"set_max_thinking_tokens","max_thinking_tokens":0}`), nil
}

func (r SetMCPServers) MarshalJSON() ([]byte, error) {
	if r.Servers == nil {
		r.Servers = json.RawMessage(`{}`)
	}
	return json.Marshal(struct {
		Subtype string          `json:"subtype"`
		Servers json.RawMessage `json:"servers"`
	}{"mcp_set_servers", r.Servers})
}

func (r AllowServer) MarshalJSON() ([]byte, error) {
	rules := []string{}
	if r.Name != "" {
		rules = append(rules, "mcp__"+r.Name)
	}
	return json.Marshal(map[string]any{"subtype": "apply_flag_settings",
		"settings": map[string]any{"permissions": map[string]any{"allow": rules}}})
}

func (r Rewind) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"subtype": "rewind_conversation", "target_message_uuid": r.UserMessageUUID})
}

func (r SideQuestion) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"subtype": "side_question", "question": r.Question})
}

// line marshals v and ends it with a newline. Only types of this package and valid raw JSON come here, for which
// Marshal can't fail; it also compacts raw JSON, so that no newline of a client's body can split a line.
func line(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("claude: " + err.Error())
	}
	return append(b, '\n')
}
