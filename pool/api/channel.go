package api

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	ids "github.com/google/uuid"
	"github.com/tidwall/gjson"
)

// The paths of a conversation's channel at fronts, and at instances.
const (
	PathStream        = "/v1/conversations/{id}/stream"
	PathSend          = "/v1/conversations/{id}/send"
	PathChannelStream = "/v1/conversations/stream"
	PathChannelSend   = "/v1/conversations/send"
)

// The types of what a client sends on a channel.
const (
	TypeUser            = "user"
	TypeControlRequest  = "control_request"
	TypeControlResponse = "control_response"
	TypeControlCancel   = "control_cancel_request"
)

// maxSent is how many payloads a client may send at once.
const maxSent = 16

// requestForm is what a control request may be called.
var requestForm = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,128}$`)

// Sending is what a client sends on the channel of a conversation.
type Sending struct {
	Request  *Request // with the credential and the conversation's id alone
	Payloads []Payload
}

// Sent is the answer to a Sending.
type Sent struct {
	Accepted int `json:"accepted"` // payloads that hadn't come before
}

// Payload is one thing that a client sends on a channel, of a shape that has been checked.
type Payload struct {
	Type, UUID string
	Raw        json.RawMessage // all of it, of user messages in one line
	Turn       *Request        // of a user message: the turn it is, of whoever sent it in the conversation
	RequestID  string          // of a control request, what answers it or takes it back
	Subtype    string          // of a control request or response
	Body       json.RawMessage // of a control request, or of a response that is a success: may be empty
	Priority   string          // of a user message
	Error      string          // of a response that is none
}

// ComposeSending makes of what a client has sent, to a conversation in the name of a user, what DecodeSending decodes:
// fronts have the credential and the conversation from elsewhere. What has no uuid gets one, so that it can be told
// when it comes twice.
func ComposeSending(body []byte, credential *Request, id string) ([]byte, error) {
	whole, err := Object(body)
	if err != nil {
		return nil, err
	}
	if err := onlyFields(whole, "", "session_id", "events"); err != nil {
		return nil, err
	}
	if said := whole.Get("session_id"); said.Exists() && !strings.EqualFold(said.Str, id) {
		return nil, Invalid("session_id: must be the conversation's, as in the path")
	}
	alone, err := json.Marshal(Request{OAuth: credential.OAuth, APIKey: credential.APIKey, SessionID: id}) // #nosec G117
	if err != nil {
		return nil, err
	}
	composed := append(make([]byte, 0, len(alone)+len(body)+len(`,"events":[]}`)), alone[:len(alone)-1]...)
	composed = append(composed, `,"events":[`...)
	n := 0
	whole.Get("events").ForEach(func(_, event gjson.Result) bool {
		if err = onlyFields(event, "events", "payload"); err != nil {
			return false
		}
		if n++; n > 1 {
			composed = append(composed, ',')
		}
		composed = appendPayload(composed, event.Get("payload"))
		return true
	})
	return append(composed, `]}`...), err
}

func appendPayload(to []byte, payload gjson.Result) []byte {
	if payload.IsObject() && payload.Get("uuid").Str == "" {
		to = append(append(append(to, `{"uuid":"`...), ids.NewString()...), '"')
		if rest := strings.TrimSpace(payload.Raw[1:]); rest != "}" {
			to = append(to, ',')
		}
		return append(to, payload.Raw[1:]...)
	}
	if payload.Raw == "" {
		return append(to, "null"...)
	}
	return append(to, payload.Raw...)
}

// DecodeSending decodes what ComposeSending has made, and checks it but for what control requests ask. Its error is an
// *Error of the 4xx kind.
func DecodeSending(body []byte) (*Sending, error) {
	req, err := DecodeChannel(body)
	if err != nil {
		return nil, err
	}
	whole, _ := Object(body) // which it is
	s := &Sending{Request: req}
	events := whole.Get("events")
	if !events.IsArray() {
		return nil, Invalid("events: must be an array")
	}
	events.ForEach(func(_, payload gjson.Result) bool {
		var p Payload
		if p, err = req.payload(payload); err == nil {
			s.Payloads = append(s.Payloads, p)
		}
		if len(s.Payloads) > maxSent {
			err = Invalid("events: at most %d are accepted at once", maxSent)
		}
		return err == nil
	})
	if err == nil && len(s.Payloads) == 0 {
		err = Invalid("events: at least one is required")
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// DecodeChannel decodes a request that is about the channel of a conversation, of which the credential and the id
// count.
func DecodeChannel(body []byte) (*Request, error) {
	req, err := DecodeDeletion(body)
	if err == nil && req.SessionID == "" {
		err = Invalid("session_id: is required")
	}
	return req, err
}

// payload checks one payload.
func (r *Request) payload(sent gjson.Result) (p Payload, err error) {
	kind := sent.Get("type")
	if !sent.IsObject() || kind.Type != gjson.String {
		return p, Invalid("payload: must be an object with a type")
	}
	if len(kind.Str) > len(TypeControlCancel) {
		return p, errPayload
	}
	p = Payload{Type: strings.Clone(kind.Str), UUID: strings.ToLower(sent.Get("uuid").Str)}
	if !uuidForm.MatchString(p.UUID) {
		return p, Invalid("payload.uuid: must be a UUID")
	}
	switch p.Type {
	case TypeUser:
		err = r.readMessage(sent, &p)
	case TypeControlRequest, TypeControlResponse, TypeControlCancel:
		err = readControl(sent, &p)
	default:
		err = errPayload
	}
	return p, err
}

var errPayload = Invalid("payload.type: must be one of user, control_request, control_response, control_cancel_request")

// readMessage reads a user message, which must be as a pooled request may have it.
func (r *Request) readMessage(sent gjson.Result, p *Payload) error {
	err := onlyFields(sent, "payload", "type", "uuid", "session_id", "parent_tool_use_id", "message", "priority",
		"timestamp")
	if err != nil {
		return err
	}
	message := sent.Get("message")
	if parent := sent.Get("parent_tool_use_id"); parent.Type != gjson.Null {
		return Invalid("payload.parent_tool_use_id: must be null")
	}
	if priority := sent.Get("priority"); priority.Exists() &&
		!slices.Contains([]string{"now", "next", "later"}, priority.Str) {
		return Invalid("payload.priority: must be now, next or later")
	}
	p.Priority = strings.Clone(sent.Get("priority").Str)
	if err := onlyFields(message, "payload.message", "role", "content"); err != nil {
		return err
	}
	alone, err := json.Marshal(struct { // #nosec G117 -- it goes nowhere
		Request
		Messages []json.RawMessage `json:"messages"`
	}{Request{OAuth: r.OAuth, APIKey: r.APIKey, SessionID: r.SessionID}, []json.RawMessage{json.RawMessage(message.Raw)}})
	if err != nil {
		return Invalid("the body is not valid JSON")
	}
	if p.Turn, err = Decode(alone); err != nil {
		return err
	}
	p.Raw, err = json.Marshal(map[string]any{"type": TypeUser, "uuid": p.UUID, "session_id": r.SessionID,
		"parent_tool_use_id": nil, "message": json.RawMessage(message.Raw)})
	return err
}

// readControl reads a control request, or what answers one or takes it back.
func readControl(sent gjson.Result, p *Payload) error {
	at, body := sent, gjson.Result{}
	switch p.Type {
	case TypeControlRequest:
		if err := onlyFields(sent, "payload", "type", "uuid", "session_id", "request_id", "request"); err != nil {
			return err
		}
		if body = sent.Get("request"); !body.IsObject() {
			return Invalid("payload.request: must be an object")
		}
		p.Subtype = strings.Clone(body.Get("subtype").Str)
	case TypeControlResponse:
		if err := onlyFields(sent, "payload", "type", "uuid", "session_id", "response"); err != nil {
			return err
		}
		at = sent.Get("response")
		err := onlyFields(at, "payload.response", "subtype", "request_id", "response", "error", "error_code")
		if err != nil {
			return err
		}
		body = at.Get("response")
		p.Subtype, p.Error = strings.Clone(at.Get("subtype").Str), strings.Clone(at.Get("error").Str)
		if p.Subtype != "success" && p.Subtype != "error" {
			return Invalid("payload.response.subtype: must be success or error")
		}
	default:
		if err := onlyFields(sent, "payload", "type", "uuid", "session_id", "request_id"); err != nil {
			return err
		}
	}
	if p.RequestID = strings.Clone(at.Get("request_id").Str); !requestForm.MatchString(p.RequestID) {
		return Invalid("payload: a request_id must be 1 to 128 letters, digits or _.:-")
	}
	p.Body = json.RawMessage(strings.Clone(body.Raw))
	return nil
}

// onlyFields refuses what is no object, or has other fields than these.
func onlyFields(object gjson.Result, path string, fields ...string) (err error) {
	if !object.IsObject() {
		return Invalid("%s: must be an object", path)
	}
	seen := make(map[string]bool, len(fields))
	object.ForEach(func(key, _ gjson.Result) bool {
		name := strings.TrimPrefix(path+"."+key.Str, ".")
		switch isKnown := slices.Contains(fields, key.Str); {
		case !isKnown && fieldForm.MatchString(key.Str):
			err = Invalid("%s: isn't accepted there", name)
		case !isKnown:
			err = Invalid("%s: has a field that isn't accepted there", path)
		case seen[key.Str]: // readers differ in which of two counts
			err = Invalid("%s: stands there twice", name)
		}
		seen[key.Str] = true
		return err == nil
	})
	return err
}
