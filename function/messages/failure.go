package messages

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// statuses are the Messages API's, by the type of the error.
var statuses = map[string]int{
	"invalid_request_error": http.StatusBadRequest, "authentication_error": http.StatusUnauthorized,
	"billing_error": http.StatusPaymentRequired, "permission_error": http.StatusForbidden,
	"not_found_error": http.StatusNotFound, "timeout_error": http.StatusGatewayTimeout,
	"request_too_large": http.StatusRequestEntityTooLarge, "rate_limit_error": http.StatusTooManyRequests,
	"api_error": http.StatusInternalServerError, "overloaded_error": api.StatusOverloaded,
}

// typeOf is the type of the API's errors with the status.
func typeOf(status int) string {
	for kind, s := range statuses {
		if s == status {
			return kind
		}
	}
	if status >= 400 && status < 500 {
		return "invalid_request_error"
	}
	return "api_error"
}

// reported is the error of an error event in the pooled stream.
func reported(event gjson.Result) *api.Error {
	kind := event.Get("error.type").Str
	status, known := statuses[kind]
	if !known {
		kind, status = "api_error", http.StatusInternalServerError
	}
	return &api.Error{Status: status, Type: kind, Message: cmp.Or(event.Get("error.message").Str, "the turn failed"),
		Code: strings.Clone(event.Get("error.details.error_code").Str)}
}

// failed is the error of a result, or nil if it is none.
func failed(result gjson.Result) *api.Error {
	reason := result.Get("terminal_reason").Str
	if !result.Get("is_error").Bool() && result.Get("subtype").Str == "success" && !strings.HasPrefix(reason, "aborted") {
		return nil
	}
	status := int(result.Get("api_error_status").Int())
	switch {
	case status >= 400 && status < 600:
	case reason == "prompt_too_long", reason == "image_error":
		status = http.StatusBadRequest
	default:
		status = http.StatusInternalServerError
	}
	text := cmp.Or(strings.Clone(result.Get("result").Str), strings.Clone(result.Get("errors.0").Str), "the turn failed")
	return &api.Error{Status: status, Type: typeOf(status), Message: text}
}

// stopReason is why a turn that went well has ended, by why its last answer did. A pause is none here, and tools have
// had their turn.
func stopReason(last string) string {
	switch last {
	case "max_tokens", "stop_sequence", "refusal":
		return last
	case "model_context_window_exceeded":
		return "max_tokens"
	}
	return "end_turn"
}
