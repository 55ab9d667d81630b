// Package logging makes slog speak Cloud Logging's structured form, and puts a request's and its trace's id on every
// line that is logged with the request's context. It sends nothing anywhere: the platform reads stdout.
package logging

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
)

// New returns a logger of the given level that writes to w: one JSON object a line in Cloud Logging's form, or readable
// text where format is "text". project is the Google Cloud project that trace ids are of; without it they are left out.
func New(w io.Writer, level slog.Level, format, project string) *slog.Logger {
	var h slog.Handler
	if format == "text" {
		h = slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	} else {
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: cloudNames})
	}
	return slog.New(handler{h, project})
}

// cloudNames gives slog's own attributes the names and values that Cloud Logging knows.
func cloudNames(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.MessageKey:
		a.Key = "message"
	case slog.LevelKey:
		a.Key = "severity"
		if level, ok := a.Value.Any().(slog.Level); ok && level == slog.LevelWarn {
			a.Value = slog.StringValue("WARNING")
		}
	}
	return a
}

// handler adds what the context knows.
type handler struct {
	slog.Handler
	project string
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if req, ok := ctx.Value(key{}).(request); ok {
		r.AddAttrs(slog.String("request_id", req.id))
		if req.trace != "" && h.project != "" {
			r.AddAttrs(slog.String("logging.googleapis.com/trace", "projects/"+h.project+"/traces/"+req.trace),
				slog.String("logging.googleapis.com/spanId", req.span), slog.Bool("logging.googleapis.com/trace_sampled", req.sampled))
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.project}
}
func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.project}
}

type key struct{}

type request struct {
	id, trace, span string
	sampled         bool
}

var (
	idForm      = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	traceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$`)
	cloudTrace  = regexp.MustCompile(`^([0-9a-f]{32})(?:/(\d+))?(?:;o=(\d))?$`)
)

// TraceHeaders are the headers a trace travels in.
var TraceHeaders = []string{"Traceparent", "X-Cloud-Trace-Context"}

// WithRequest returns a context whose log lines carry the request's id and its trace, if the headers name one.
func WithRequest(ctx context.Context, id string, h http.Header) context.Context {
	req := request{id: id}
	if m := traceparent.FindStringSubmatch(h.Get("Traceparent")); m != nil {
		req.trace, req.span, req.sampled = m[1], m[2], strings.HasSuffix(m[3], "1")
	} else if m := cloudTrace.FindStringSubmatch(h.Get("X-Cloud-Trace-Context")); m != nil {
		req.trace, req.span, req.sampled = m[1], m[2], m[3] == "1"
	}
	return context.WithValue(ctx, key{}, req)
}

// RequestID is the id a client gave its request, or a new one where it gave none or an odd one.
func RequestID(h http.Header) string {
	if id := h.Get("X-Request-Id"); idForm.MatchString(id) {
		return id
	}
	b := make([]byte, 12)
	rand.Read(b)
	return "req_" + hex.EncodeToString(b)
}
