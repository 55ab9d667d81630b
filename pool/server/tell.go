package server

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/channel"
)

// tell puts lines of a turn into the log. It waits for nobody.
func (t *talk) tell(_ context.Context, lines [][]byte) error {
	events := make([]channel.Event, len(lines))
	for i, line := range lines {
		events[i] = channel.Event{Source: sourceWorker, Payload: line}
		kind := gjson.GetBytes(line, "type").Str
		if events[i].Partial = kind == "stream_event"; !events[i].Partial {
			events[i].Payload = t.outward(line, kind == "result")
		}
	}
	t.log.Append(events...)
	return nil
}

// deliver tells what has become of a message.
func (t *talk) deliver(id, status string) {
	data, _ := json.Marshal(map[string]string{"event_id": id, "status": "DELIVERY_STATUS_" + status,
		"timestamp": time.Now().UTC().Format(time.RFC3339Nano)}) // of strings: can't fail
	t.log.Tell("delivery_update", data)
}

// failure is the result of a turn that has none of its own for these messages.
func (t *talk) failure(messages []string, err error) []byte {
	why := []string{api.Known(err).Message}
	if len(messages) > 1 {
		why = append(why, "messages that were sent into this turn may not have been read")
	}
	text, _ := json.Marshal(map[string]any{"type": "result", "subtype": "error_during_execution", "is_error": true,
		"duration_ms": 0, "duration_api_ms": 0, "num_turns": 0, "total_cost_usd": 0, "stop_reason": nil,
		"usage": struct{}{}, "modelUsage": struct{}{}, "permission_denials": []string{}, "errors": why,
		"session_id": t.id.session, "uuid": uuid.NewString(), "user_message_uuids": messages}) // can't fail
	return text
}
