package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Headers between front and pool instance, and what of them reaches the client.
const (
	HeaderRequestID  = "X-Request-Id"             // both ways
	HeaderHop        = "X-Claudepool-Hop"         // front to instance: the signed claims
	HeaderNotStarted = "X-Claudepool-Not-Started" // instance to front: nothing was run, try again
	// #nosec G101 -- a name: instance to front: a 401 is about the user's credential, not the hop
	HeaderCredential = "X-Claudepool-Credential"
	HeaderInstance   = "X-Claudepool-Instance" // to the client: which instance answered
	HeaderPID        = "X-Claudepool-Pid"      // to the client: which process
	HeaderTiming     = "Server-Timing"         // to the client: queue and ready, in milliseconds
	HeaderProcess    = "X-Claudepool-Process"  // to the client: standby, reused, resumed or cold
	HeaderTurn       = "X-Claudepool-Turn"     // to the client: the id of a turn whose stream can be taken up again
	HeaderLastEvent  = "Last-Event-ID"         // both ways: the last event that a client has of such a stream
	// #nosec G101 -- a name: instance to front: the answer is for the client; without it, another instance may have one
	HeaderPassed = "X-Claudepool-Passed"

	HeaderIdempotencyKey = "Idempotency-Key"       // both ways: the client's name for a request that is to be run once
	HeaderOriginal       = "X-Claudepool-Original" // front to instance: digest of the body that the front has translated

	HeaderServiceKey = "X-Claudepool-Service" // front to instance: id of the service's key that a request came by

	HeaderShouldRetry = "X-Should-Retry"     // to the client: whether nothing was run, so that it may try again by itself
	HeaderBegun       = "X-Claudepool-Begun" // instance to front: some of the request may have been run
	headerRequestID   = "Request-Id"         // to the client: the request's id, where the official SDKs look for it
)

// SetRequestID tells the client the id of its request, in both headers that have it.
func SetRequestID(h http.Header, id string) {
	value := []string{id}
	h[HeaderRequestID], h[headerRequestID] = value, value
}

// The paths of the service, the same at fronts and at instances.
const (
	PathMessages = "/v1/messages/pooled"
	PathResume   = "/v1/messages/pooled/resume"
	PathAnswer   = "/v1/messages/pooled/answer"
	PathDelete   = "/v1/conversations/delete"
)

// The paths at which fronts speak as others do, the Messages API and OpenAI's.
const (
	PathMessagesAPI = "/v1/messages"
	PathChat        = "/v1/chat/completions"
)

// AppendEventID appends the id of an event of a turn that can be taken up again; the first is number 1.
func AppendEventID(b []byte, turn string, number int) []byte {
	return strconv.AppendInt(append(append(b, turn...), '.'), int64(number), 10)
}

// ParseEventID reads what AppendEventID wrote. Number 0, or the id of a turn alone, is before the first event.
func ParseEventID(id string) (turn string, number int, err error) {
	turn, digits, isEvent := strings.Cut(id, ".")
	if isEvent {
		number, err = strconv.Atoi(digits)
	}
	if err != nil || number < 0 || turn == "" {
		return "", 0, Invalid("%s: must be the id of an event", HeaderLastEvent)
	}
	return turn, number, nil
}

// Deletion is the answer to a request to forget conversations.
type Deletion struct {
	Deleted int `json:"deleted"` // conversations
}

// Receipt tells how a request was served. It stands in a comment before a stream's end mark. Times are in milliseconds
// since the request reached its instance.
type Receipt struct {
	Process    string  `json:"process"` // as in HeaderProcess
	PID        int     `json:"pid"`
	Instance   string  `json:"instance"`
	Queue      float64 `json:"queue_ms"`       // waited for the conversation's turn
	Ready      float64 `json:"ready_ms"`       // then for its process
	FirstEvent float64 `json:"first_event_ms"` // 0 if there was none
	Total      float64 `json:"total_ms"`
	Context    string  `json:"context"`         // what the process had of what was said before, see the constants
	Usage      *Usage  `json:"usage,omitempty"` // of this turn alone; left out where the CLI didn't say
	CostUSD    float64 `json:"cost_usd"`        // the same
	APICalls   int64   `json:"api_calls"`       // of this turn, as far as they were passed on
}

// Where what a turn's process had of what was said before came from.
const (
	ContextNone    = "none"    // nothing was said before
	ContextKept    = "kept"    // the process had it
	ContextResumed = "resumed" // from the CLI's own transcript
	ContextCut     = "cut"     // the same, without turns that failed
	ContextSeeded  = "seeded"  // from the texts of what was said, as the request's history or the transcript has them
	ContextLost    = "lost"    // something was said before, but nothing of it could be had: the conversation begins anew
)

// Usage is what a turn took, in tokens, with subagents and compaction.
type Usage struct {
	InputTokens         int64 `json:"input_tokens"`
	OutputTokens        int64 `json:"output_tokens"`
	CacheReadTokens     int64 `json:"cache_read_input_tokens"`
	CacheCreationTokens int64 `json:"cache_creation_input_tokens"`
}

// ServerTiming is the receipt's beginning in the form of the header of that name.
func (r Receipt) ServerTiming() string {
	return fmt.Sprintf("queue;dur=%.1f, ready;dur=%.1f", r.Queue, r.Ready)
}

// Comment is the receipt as it stands in a stream: a line directly before the next event, as there are clients that
// take a comment with a blank line behind it for an empty event.
func (r Receipt) Comment() []byte {
	b, _ := json.Marshal(r) // of strings and finite numbers only
	return append(append([]byte(": receipt "), b...), '\n')
}

// What stands in a stream beside events.
const (
	Ping = ": ping\n"
	// NotBegun says before the error that ends a stream that nothing was run.
	NotBegun = ": not begun\n"
	Done     = "data: [DONE]\n\n"
)
