// Package logging makes loggers whose lines Cloud Logging understands, and carries a request's id and trace in its
// context, so that every line of a request can be found again. It sends nothing anywhere: lines go to a writer, without
// the secrets that may have got into them.
package logging

import (
	"context"
	"io"
	"log/slog"
	"slices"
)

// Keys of the attributes that a request's lines get.
const (
	KeyRequestID = "request_id"

	keyTrace   = "logging.googleapis.com/trace"
	keySpan    = "logging.googleapis.com/spanId"
	keySampled = "logging.googleapis.com/trace_sampled"
)

// New returns a logger that writes lines of at least the level to w. The format "text" is for people: slog's own, with
// the request id; any other is JSON in Cloud Logging's form. projectID is the one traces are looked up in; without it
// a trace stands there by its bare id. Tokens, keys and passwords are taken out of every line. The logger may be used
// concurrently.
func New(w io.Writer, level slog.Leveler, format, projectID string) *slog.Logger {
	if format == "text" {
		text := slog.NewTextHandler(redacting{w}, &slog.HandlerOptions{Level: level, ReplaceAttr: plainValues})
		return slog.New(&handler{plain: text, inner: text, attrs: textAttrs})
	}
	prefix := ""
	if projectID != "" {
		prefix = "projects/" + projectID + "/traces/"
	}
	json := slog.NewJSONHandler(redacting{w}, &slog.HandlerOptions{Level: level, ReplaceAttr: cloudNames})
	return slog.New(&handler{plain: json, inner: json,
		attrs: func(r request) []slog.Attr { return cloudAttrs(r, prefix) }})
}

// handler adds the request of a line's context to it. The platform reads these attributes at the top of a line only,
// so they must not end up in a group that the logger has open.
type handler struct {
	plain   slog.Handler                      // without any group or attribute
	steps   []func(slog.Handler) slog.Handler // what made inner of plain
	inner   slog.Handler
	grouped bool // a step opened a group
	attrs   func(request) []slog.Attr
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	r, found := requestOf(ctx)
	if !found {
		return h.inner.Handle(ctx, record)
	}
	attrs := h.attrs(r)
	if !h.grouped {
		record = record.Clone()
		record.AddAttrs(attrs...)
		return h.inner.Handle(ctx, record)
	}
	inner := h.plain.WithAttrs(attrs)
	for _, step := range h.steps {
		inner = step(inner)
	}
	return inner.Handle(ctx, record)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	grouped := h.with(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
	grouped.grouped = true
	return grouped
}

func (h *handler) with(step func(slog.Handler) slog.Handler) *handler {
	next := *h
	next.steps = append(slices.Clip(h.steps), step)
	next.inner = step(h.inner)
	return &next
}

// cloudNames gives a line's own fields the names Cloud Logging knows.
func cloudNames(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return hideKeys(attr)
	}
	switch attr.Key {
	case slog.MessageKey:
		attr.Key = "message"
	case slog.LevelKey:
		if level, ok := attr.Value.Any().(slog.Level); ok {
			return slog.String("severity", severity(level))
		}
	}
	return hideKeys(attr)
}

func severity(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "ERROR"
	case level >= slog.LevelWarn:
		return "WARNING"
	case level >= slog.LevelInfo:
		return "INFO"
	default:
		return "DEBUG"
	}
}

func textAttrs(r request) []slog.Attr {
	if r.id == "" {
		return nil
	}
	return []slog.Attr{slog.String(KeyRequestID, r.id)}
}

func cloudAttrs(r request, prefix string) []slog.Attr {
	attrs := textAttrs(r)
	if r.trace.ID == "" {
		return attrs
	}
	attrs = append(attrs, slog.String(keyTrace, prefix+r.trace.ID), slog.Bool(keySampled, r.trace.Sampled))
	if r.trace.SpanID != "" {
		attrs = append(attrs, slog.String(keySpan, r.trace.SpanID))
	}
	return attrs
}
