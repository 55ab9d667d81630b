package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/tidwall/gjson"
)

const (
	maxDepth = 64
	// maxValues is how many values a body may hold down to builtDepth, which are its content blocks: of those something
	// is built, and a few bytes of text can become hundreds in memory. What is deeper is kept as text.
	maxValues   = 100_000
	builtDepth  = 4
	maxMessages = 10_000
	maxModel    = 128
	maxServers  = 32
	// maxSystem and maxServersSize are how many bytes a system prompt and all servers together may have: they are kept for
	// as long as their conversation is known.
	maxSystem      = 256 << 10
	maxServersSize = 64 << 10
)

// Decode decodes and validates a request. Its error is always an *Error of the 4xx kind. Fields that this service
// doesn't know are ignored, as Messages API clients send some. The request keeps nothing of the body.
func Decode(body []byte) (*Request, error) {
	return decode(body, (*Request).validate)
}

// DecodeDeletion decodes a request to forget conversations, of which the credential and the session id count.
func DecodeDeletion(body []byte) (*Request, error) {
	return decode(body, func(req *Request) error {
		if err := req.validateCredential(); err != nil {
			return err
		}
		return req.validateSession()
	})
}

// DecodeCredential decodes a request of which nothing but the credential counts, as Decode does a whole one.
func DecodeCredential(body []byte) (*Request, error) {
	return decode(body, (*Request).validateCredential)
}

func decode(body []byte, validate func(*Request) error) (*Request, error) {
	req, err := parse(body)
	if err == nil {
		err = validate(req)
	}
	if err != nil {
		return nil, err
	}
	req.digests = req.known()
	return req, nil
}

// parse takes a body apart. The messages' contents are parts of the body; of the rest little is built.
func parse(body []byte) (*Request, error) {
	whole, err := Object(body)
	if err != nil {
		return nil, err
	}
	fields, messages, err := split(whole)
	if err != nil {
		return nil, err
	}
	return build(fields, body, messages)
}

func build(fields, body []byte, messages gjson.Result) (*Request, error) {
	req, err := parseFields(fields)
	if err == nil {
		req.Messages, err = parseMessages(body, messages)
	}
	return req, err
}

// maxField is how long a field other than the messages may be, in bytes of JSON: several times what the longest may
// have.
const maxField = 2 << 20

// usualFields is what all fields but the messages usually take, in bytes.
const usualFields = 512

// split takes the messages out of a request. The rest is an object of its own, without what this service doesn't know.
func split(whole gjson.Result) (fields []byte, messages gjson.Result, err error) {
	fields = append(make([]byte, 0, usualFields), '{')
	whole.ForEach(func(key, value gjson.Result) bool {
		switch {
		case key.Str == "messages":
			messages = value
		case !knownFields[key.Str]:
		case len(value.Raw) > maxField:
			err = Invalid("%s: must not be longer than %d bytes", key.Str, fieldLimit(key.Str))
		default:
			if len(fields) > 1 {
				fields = append(fields, ',')
			}
			fields = append(append(append(fields, key.Raw...), ':'), value.Raw...)
		}
		return err == nil
	})
	return append(fields, '}'), messages, err
}

// knownFields are the names of a request's fields but for the messages.
var knownFields = map[string]bool{"oauth_credentials": true, "api_key": true, "model": true, "session_id": true,
	"system":   true,
	"thinking": true, "fallback_model": true, "mcp_servers": true, "permission_mode": true, "on_disconnect": true,
	"background": true, "interactive": true, "stateless": true, "max_budget_usd": true, "max_turns": true,
	"client_tools": true}

// fieldLimit is how long a field may be as it will be kept.
func fieldLimit(name string) int {
	switch name {
	case "system":
		return maxSystem
	case "mcp_servers":
		return maxServersSize
	case "client_tools":
		return maxToolsSize
	}
	return maxField
}

func parseFields(fields []byte) (*Request, error) {
	var raw struct {
		Request
		System   json.RawMessage `json:"system"`
		Thinking json.RawMessage `json:"thinking"`
	}
	if err := json.Unmarshal(fields, &raw); err != nil {
		return nil, malformed(err)
	}
	req := &raw.Request
	var err error
	if req.System, err = systemText(raw.System); err != nil {
		return nil, err
	}
	if req.Thinking, err = thinkingSwitch(raw.Thinking); err != nil {
		return nil, err
	}
	raw.System, raw.Thinking = nil, nil // they would be kept with the request
	return req, nil
}

// parseMessages finds the messages in the body, whose contents they share.
func parseMessages(body []byte, list gjson.Result) (messages []Message, err error) {
	if list.Type == gjson.Null { // also where there is none
		return nil, nil
	}
	if !list.IsArray() {
		return nil, Invalid("messages: must be an array")
	}
	list.ForEach(func(_, m gjson.Result) bool {
		role, content := m.Get("role"), m.Get("content")
		switch {
		case !m.IsObject():
			err = Invalid("messages.%d: must be an object", len(messages))
		case role.Type != gjson.String && role.Type != gjson.Null:
			err = Invalid("messages.%d.role: must be a string", len(messages))
		case len(messages) == maxMessages:
			err = Invalid("messages: at most %d are accepted", maxMessages)
		default:
			messages = append(messages, Message{Role: roleOf(role.Str), Content: part(body, content)})
		}
		return err == nil
	})
	return messages, err
}

// roleOf is the role without what it was read from.
func roleOf(read string) string {
	for _, role := range [...]string{"user", "assistant"} {
		if read == role {
			return role
		}
	}
	return strings.Clone(read)
}

// checkShape counts levels and values, before anything recurses or is built.
func checkShape(body []byte) error {
	depth, values := 0, 0
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '"':
			i = stringEnd(body, i)
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return Invalid("the body is nested deeper than %d levels", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		case c == ',' && depth <= builtDepth:
			if values++; values > maxValues {
				return Invalid("the body holds more than %d messages, content blocks and settings", maxValues)
			}
		}
	}
	return nil
}

// stringEnd is where the string ends that begins at i, or the body.
func stringEnd(body []byte, i int) int {
	for i++; i < len(body); i++ {
		next := bytes.IndexByte(body[i:], '"')
		if next < 0 {
			return len(body)
		}
		if i += next; !escaped(body, i) {
			return i
		}
	}
	return i
}

// escaped reports whether an odd number of backslashes stands before i.
func escaped(body []byte, i int) bool {
	n := 0
	for n < i && body[i-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

func malformed(err error) *Error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) && kind.Field != "" {
		// encoding/json begins the path with the name of the embedded struct.
		return Invalid("%s: must not be of type %s", strings.TrimPrefix(kind.Field, "Request."), kind.Value)
	}
	if errors.As(err, &kind) {
		return Invalid("the body must be a JSON object")
	}
	return Invalid("the body is not valid JSON")
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// systemText accepts a string or an array of text blocks, as the Messages API does.
func systemText(raw json.RawMessage) (*string, error) {
	if isNull(raw) {
		return nil, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return &text, nil
	}
	var blocks []struct{ Type, Text string }
	if json.Unmarshal(raw, &blocks) != nil {
		return nil, Invalid("system: must be a string or an array of text blocks")
	}
	var texts []string
	for _, b := range blocks {
		if b.Type != "text" {
			return nil, Invalid("system: blocks must be of type text")
		}
		texts = append(texts, b.Text)
	}
	text = strings.Join(texts, "\n\n")
	return &text, nil
}

// thinkingSwitch accepts a boolean, or the Messages API's object by its type.
func thinkingSwitch(raw json.RawMessage) (*bool, error) {
	if isNull(raw) {
		return nil, nil
	}
	var on bool
	if json.Unmarshal(raw, &on) == nil {
		return &on, nil
	}
	switch gjson.GetBytes(raw, "type").Str {
	case "enabled", "adaptive":
		on = true
	case "disabled":
	default:
		return nil, Invalid("thinking: must be true or false, or an object of the type enabled, adaptive or disabled")
	}
	return &on, nil
}
