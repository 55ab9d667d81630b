// Package messages speaks the Messages API, as Anthropic's own clients do: it translates a request into the pooled
// contract, and the lines of a turn, of however many answers of the API, into the one message that such a client
// expects. It is pure functions over bytes: it knows no HTTP but headers, and no clock.
package messages

// ServerName is the MCP server that the tools of Claude Code are shown as: their calls and results are blocks that a
// client need not answer.
const ServerName = "claude-code"

// The headers a client may send, as the Messages API has no fields for these.
const (
	HeaderSession        = "X-Claudepool-Session"
	HeaderPermissionMode = "X-Claudepool-Permission-Mode"
	HeaderOnDisconnect   = "X-Claudepool-On-Disconnect"
	HeaderMaxBudget      = "X-Claudepool-Max-Budget-Usd"
	HeaderMaxTurns       = "X-Claudepool-Max-Turns"
	HeaderTools          = "X-Claudepool-Tools" // Show or Hide
	// HeaderIgnored is in the answer: which of the request's parameters have had no effect.
	HeaderIgnored = "X-Claudepool-Ignored"
)

// Whether a client sees the calls of tools and what they said.
const (
	Show = "show"
	Hide = "hide"
)

// Emit takes one event of the Messages API's stream. The data is only good until it returns.
type Emit func(name string, data []byte)

// Frames writes events as the Messages API's own clients read them.
type Frames struct{}

// Event appends an event of the stream.
func (Frames) Event(to []byte, name string, data []byte) []byte {
	to = append(append(append(to, "event: "...), name...), "\ndata: "...)
	return append(append(to, data...), "\n\n"...)
}

// Whole is the answer that a message is which was not streamed.
func (Frames) Whole(message []byte) []byte { return message }
