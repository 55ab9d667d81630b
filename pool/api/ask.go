package api

import (
	"encoding/json"
	"errors"

	"github.com/tidwall/gjson"
)

// ErrNotAsked is the error of an answer to what nobody waits for any more.
var ErrNotAsked = errors.New("api: not asked")

// ErrNoTurn is the error of what is meant for a turn that isn't there, or not any more.
var ErrNoTurn = errors.New("api: no turn")

// Ask is something that a CLI asks of whoever it works for, and waits for.
type Ask struct {
	ID      string // of the control request
	Subtype string // can_use_tool, hook_callback, mcp_message, elicitation, …
	Line    []byte // the control request as the CLI wrote it
	// Answer and Refuse answer it, once: ErrNotAsked. They may wait for the CLI.
	Answer func(response json.RawMessage) error
	Refuse func(why string) error
}

// Host answers what a conversation's processes ask, in turns and between them. Its methods may be called concurrently,
// and must not wait.
type Host interface {
	// Asked takes what is asked. It reports whether the line is to stand among those of the turn that runs.
	Asked(Ask) (isShown bool)
	// Withdrawn says that a process doesn't wait any longer for what it has asked.
	Withdrawn(id string)
}

// Hook events of which nothing may happen without an answer.
const hookBefore = "PreToolUse"

// What is asked of channels' clients alone, by the subtypes of its control requests.
const (
	askHook = "hook_callback"
	askMCP  = "mcp_message" // to an MCP server that lives in the client
)

// AnswersAll is Answers for clients of channels.
func AnswersAll(asked, given gjson.Result, mayMode func(string) bool) (setsMode bool, err error) {
	if !given.IsObject() {
		return false, Invalid("response: must be an object")
	}
	if len(given.Raw) > maxAnswer {
		return false, TooLarge("response: must not be longer than %d bytes", maxAnswer)
	}
	switch asked.Get("subtype").Str {
	case askHook:
		return false, answersHook(given)
	case askMCP:
		return false, onlyFields(given, "response", "mcp_response")
	}
	return Answers(asked, given, mayMode)
}

// answersHook checks what a hook says. It may say no more than a user who is asked.
func answersHook(given gjson.Result) error {
	if err := onlyFields(given, "response", "continue", "suppressOutput", "stopReason", "decision", "reason",
		"systemMessage", "hookSpecificOutput"); err != nil {
		return err
	}
	specific := given.Get("hookSpecificOutput")
	if !specific.Exists() {
		return nil
	}
	return onlyFields(specific, "response.hookSpecificOutput", "hookEventName", "permissionDecision",
		"permissionDecisionReason", "updatedInput", "additionalContext", "updatedToolOutput", "updatedMCPToolOutput")
}

// AnswerForNobody answers what nobody is there to answer. What guards a tool says no.
func (a Ask) AnswerForNobody(why string) error {
	said, _ := json.Marshal(why) // a string: can't fail
	switch {
	case a.Subtype == AskTool:
		return a.Answer(json.RawMessage(`{"behavior":"deny","message":` + string(said) + `}`))
	case a.Subtype != askHook:
		return a.Refuse(why)
	case gjson.GetBytes(a.Line, "request.input.hook_event_name").Str == hookBefore:
		return a.Answer(json.RawMessage(`{"hookSpecificOutput":{"hookEventName":"` + hookBefore +
			`","permissionDecision":"deny","permissionDecisionReason":` + string(said) + `}}`))
	}
	return a.Answer(json.RawMessage(`{}`))
}
