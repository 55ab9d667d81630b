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

// hookBefore is the hook event without whose answer nothing may happen.
const hookBefore = "PreToolUse"

// Permissions are what clients may permit a process to do.
type Permissions struct {
	MayMode    func(mode string) bool // they may set this permission mode
	MayApprove bool                   // they may allow what the mode alone doesn't
}

// What is asked of channels' clients alone, by the subtypes of its control requests.
const (
	askHook = "hook_callback"
	askMCP  = "mcp_message" // to an MCP server that lives in the client
)

// AnswersAll is Answers for clients of channels.
func AnswersAll(asked, given gjson.Result, may Permissions) (setsMode bool, err error) {
	if !given.IsObject() {
		return false, Invalid("response: must be an object")
	}
	if len(given.Raw) > maxAnswer {
		return false, TooLarge("response: must not be longer than %d bytes", maxAnswer)
	}
	switch asked.Get("subtype").Str {
	case askHook:
		return false, answersHook(given, may.MayApprove)
	case askMCP:
		return false, onlyFields(given, "response", "mcp_response")
	}
	return Answers(asked, given, may.MayMode)
}

// answersHook checks what a hook says. It may say no more than a user who is asked, and where nobody may approve
// anything, it may only refuse.
func answersHook(given gjson.Result, mayApprove bool) error {
	if err := onlyFields(given, "response", "continue", "suppressOutput", "stopReason", "decision", "reason",
		"systemMessage", "hookSpecificOutput"); err != nil {
		return err
	}
	specific := given.Get("hookSpecificOutput")
	if !mayApprove && approves(given, specific) {
		return Invalid("response: this service takes no approvals: a hook may only refuse")
	}
	if !specific.Exists() {
		return nil
	}
	return onlyFields(specific, "response.hookSpecificOutput", "hookEventName", "permissionDecision",
		"permissionDecisionReason", "updatedInput", "additionalContext", "updatedToolOutput", "updatedMCPToolOutput")
}

// approves reports whether a hook lets something run, or something else than the model has asked for.
func approves(given, specific gjson.Result) bool {
	for _, decision := range []gjson.Result{given.Get("decision"), specific.Get("permissionDecision")} {
		switch decision.String() { // the CLI may take for one what isn't a string
		case "", "block", "deny", "ask":
		default:
			return true
		}
	}
	return specific.Get("updatedInput").Exists()
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
