package broker

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// warmAnswer is what a process gets that belongs to nobody: the least that the CLI takes for an answer. It used no
// tokens, so it adds nothing to anybody's usage or cost.
const warmAnswer = `event: message_start
data: {"type":"message_start","message":{"id":"msg_warm","type":"message","role":"assistant","model":%MODEL%,` +
	`"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"output_tokens":0}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"ok"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":0}}

event: message_stop
data: {"type":"message_stop"}

`

// warmUp answers a call of a process that belongs to nobody, so that a process started in advance can have a turn
// behind it when its user comes.
func warmUp(w http.ResponseWriter, r *http.Request) {
	var call struct {
		Model  json.RawMessage `json:"model"`
		Stream bool            `json:"stream"`
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(body, &call) != nil || !call.Stream || len(call.Model) == 0 {
		writeError(w, http.StatusServiceUnavailable, "api_error", "this process belongs to nobody yet")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, strings.Replace(warmAnswer, "%MODEL%", string(call.Model), 1))
}
