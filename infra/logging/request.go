package logging

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

const (
	headerRequestID   = "X-Request-Id"
	headerTraceparent = "Traceparent"
	headerCloudTrace  = "X-Cloud-Trace-Context"
)

// TraceHeaders are the headers a trace travels in.
var TraceHeaders = []string{headerTraceparent, headerCloudTrace}

var (
	requestID   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	traceparent = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$`)
	cloudTrace  = regexp.MustCompile(`^([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-9]))?$`)
)

// Trace is where a request stands in a distributed trace. The zero Trace is none.
type Trace struct {
	ID      string // 32 lower-case hex digits
	SpanID  string // 16 lower-case hex digits, or ""
	Sampled bool
}

// request is what a context carries.
type request struct {
	id    string
	trace Trace
}

type requestKey struct{}

// WithRequest returns a context that carries the request's id, and its trace: that of ctx, or if there is none the one
// that the headers name.
func WithRequest(ctx context.Context, id string, header http.Header) context.Context {
	of := TraceOf(header)
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		of = Trace{ID: span.TraceID().String(), SpanID: span.SpanID().String(), Sampled: span.IsSampled()}
	}
	return context.WithValue(ctx, requestKey{}, request{id: id, trace: of})
}

// Unsampled is the value of a trace's header without what a client says about sampling, which isn't for it to decide.
func Unsampled(name, value string) string {
	if name == headerTraceparent && parseTraceparent(value).ID != "" {
		return value[:lengthToFlags] + "00"
	}
	return value
}

// lengthToFlags is how long version, trace and span of a traceparent are, with what is between them.
const lengthToFlags = 2 + 1 + 32 + 1 + 16 + 1

// RequestID returns the id that the client gave its request, or a new one where it gave none or an odd one: ids go
// into logs and headers as they are.
func RequestID(header http.Header) string {
	if id := header.Get(headerRequestID); requestID.MatchString(id) {
		return id
	}
	return NewRequestID()
}

// NewRequestID returns a random id: `req_` and 24 hex digits.
func NewRequestID() string {
	var random [12]byte
	_, _ = rand.Read(random[:]) // never fails: the runtime ends the program first
	return "req_" + hex.EncodeToString(random[:])
}

// TraceOf returns the trace that the headers name: the standard header before the platform's own. What is not formed
// as it should be counts as none.
func TraceOf(header http.Header) Trace {
	if trace := parseTraceparent(header.Get(headerTraceparent)); trace.ID != "" {
		return trace
	}
	return parseCloudTrace(header.Get(headerCloudTrace))
}

// parseTraceparent reads W3C's form, version-trace-span-flags. A later version may have more behind it; version 00 may
// not, and ff is none.
func parseTraceparent(value string) Trace {
	part := traceparent.FindStringSubmatch(value)
	if part == nil || part[1] == "ff" || (part[1] == "00" && part[5] != "") || zero(part[2]) || zero(part[3]) {
		return Trace{}
	}
	flags, _ := strconv.ParseUint(part[4], 16, 8) // two hex digits, as matched
	return Trace{ID: part[2], SpanID: part[3], Sampled: flags&1 == 1}
}

// parseCloudTrace reads TRACE/SPAN;o=OPTIONS, where the span is a decimal number.
func parseCloudTrace(value string) Trace {
	part := cloudTrace.FindStringSubmatch(value)
	if part == nil || zero(part[1]) {
		return Trace{}
	}
	trace := Trace{ID: strings.ToLower(part[1]), Sampled: part[3] == "1"}
	if span, err := strconv.ParseUint(part[2], 10, 64); err == nil && span != 0 {
		trace.SpanID = fmt.Sprintf("%016x", span)
	}
	return trace
}

func zero(digits string) bool { return strings.Trim(digits, "0") == "" }

func requestOf(ctx context.Context) (request, bool) {
	r, found := ctx.Value(requestKey{}).(request)
	return r, found
}
