package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// StatusOverloaded is the Messages API's own status for "no room now".
const StatusOverloaded = 529

// Error is what a client gets to know of a failure, in the Messages API's terms.
type Error struct {
	Status     int
	Type       string
	Message    string
	RetryAfter time.Duration // 0: not said
	Credential bool          // the API doesn't accept the user's credential
	Code       string        // the API's own code of the failure, which some clients decide by; empty: none
	Begun      bool          // some of the request may have been run
}

func (e *Error) Error() string { return e.Message }

func newError(status int, kind string, retry time.Duration, format string, args []any) *Error {
	return &Error{Status: status, Type: kind, Message: fmt.Sprintf(format, args...), RetryAfter: retry}
}

// Invalid is a 400: the request can't be what the client meant.
func Invalid(format string, args ...any) *Error {
	return newError(http.StatusBadRequest, "invalid_request_error", 0, format, args)
}

// Authentication is a 401.
func Authentication(format string, args ...any) *Error {
	return newError(http.StatusUnauthorized, "authentication_error", 0, format, args)
}

// CredentialRefused is a 401 that an instance's client is to see.
func CredentialRefused() *Error {
	e := Authentication("the API doesn't accept this credential")
	e.Credential = true
	return e
}

// NotFound is a 404.
func NotFound(format string, args ...any) *Error {
	return newError(http.StatusNotFound, "not_found_error", 0, format, args)
}

// MethodNotAllowed is a 405.
func MethodNotAllowed(format string, args ...any) *Error {
	return newError(http.StatusMethodNotAllowed, "invalid_request_error", 0, format, args)
}

// Unsupported is a 415.
func Unsupported(format string, args ...any) *Error {
	return newError(http.StatusUnsupportedMediaType, "invalid_request_error", 0, format, args)
}

// TimedOut is a 408: the client was too slow.
func TimedOut(format string, args ...any) *Error {
	return newError(http.StatusRequestTimeout, "timeout_error", 0, format, args)
}

// TooLarge is a 413.
func TooLarge(format string, args ...any) *Error {
	return newError(http.StatusRequestEntityTooLarge, "request_too_large", 0, format, args)
}

// Misdirected is a 421, between instance and front only.
func Misdirected(format string, args ...any) *Error {
	return newError(http.StatusMisdirectedRequest, "api_error", 0, format, args)
}

// RateLimited is a 429.
func RateLimited(retry time.Duration, format string, args ...any) *Error {
	return newError(http.StatusTooManyRequests, "rate_limit_error", retry, format, args)
}

// Overloaded is a 529.
func Overloaded(retry time.Duration, format string, args ...any) *Error {
	return newError(StatusOverloaded, "overloaded_error", retry, format, args)
}

// BadGateway is a 502.
func BadGateway(format string, args ...any) *Error {
	return newError(http.StatusBadGateway, "api_error", 0, format, args)
}

// Spent is a 402: what the client, or the request, may spend is spent. The code says what that was.
func Spent(code, format string, args ...any) *Error {
	e := newError(http.StatusPaymentRequired, "billing_error", 0, format, args)
	e.Code = code
	return e
}

// Unavailable is a 503.
func Unavailable(retry time.Duration, format string, args ...any) *Error {
	return newError(http.StatusServiceUnavailable, "api_error", retry, format, args)
}

type envelope struct {
	Type      string `json:"type"`
	Error     detail `json:"error"`
	RequestID string `json:"request_id,omitempty"`
}

type detail struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Details *code  `json:"details,omitempty"`
}

type code struct {
	ErrorCode string `json:"error_code"`
}

// body is the error in the Messages API's envelope.
func (e *Error) body(requestID string) []byte {
	what := detail{Type: e.Type, Message: e.Message}
	if e.Code != "" {
		what.Details = &code{e.Code}
	}
	text, _ := json.Marshal(envelope{"error", what, requestID}) // strings only: can't fail
	return text
}

// Known returns the *Error in err, or one that gives nothing away.
func Known(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Status: http.StatusInternalServerError, Type: "api_error", Message: "internal error"}
}

// WriteError answers with err in the Messages API's envelope. An err that holds no *Error becomes a 500 without detail.
//
// The official SDKs send no idempotency key and try again by themselves on 408, 409, 429 and 5xx, so each error tells
// them whether to: only if nothing was begun and it is known when to come again.
func WriteError(w http.ResponseWriter, requestID string, err error) {
	e := Known(err)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if requestID != "" {
		SetRequestID(h, requestID)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	h.Set(HeaderShouldRetry, strconv.FormatBool(e.RetryAfter > 0 && !e.Begun))
	if e.Credential {
		h.Set(HeaderCredential, "refused")
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(e.body(requestID), '\n'))
}

// ErrorEvent is the event that ends a stream which has begun.
func ErrorEvent(err error) []byte {
	return append(append([]byte("data: "), Known(err).body("")...), "\n\n"...)
}

// Envelope is err in the Messages API's envelope.
func Envelope(requestID string, err error) []byte { return Known(err).body(requestID) }
