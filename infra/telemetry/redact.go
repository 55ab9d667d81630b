package telemetry

import (
	"context"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"claudepool/infra/logging"
)

// shortestSecret is how long a text has to be to be looked at. Most values are shorter, and looking takes time.
const shortestSecret = 12

// redacting passes spans on without what looks like a secret, as the log does: errors and paths may have one in them.
type redacting struct{ sdktrace.SpanExporter }

// ExportSpans is of sdktrace.SpanExporter.
func (r redacting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	clean := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, span := range spans {
		clean[i] = redacted{span}
	}
	return r.SpanExporter.ExportSpans(ctx, clean)
}

type redacted struct{ sdktrace.ReadOnlySpan }

func (r redacted) Name() string { return cleaned(r.ReadOnlySpan.Name()) }

func (r redacted) Attributes() []attribute.KeyValue { return redactAll(r.ReadOnlySpan.Attributes()) }

func (r redacted) Events() []sdktrace.Event {
	events := append([]sdktrace.Event(nil), r.ReadOnlySpan.Events()...)
	for i := range events {
		events[i].Attributes = redactAll(events[i].Attributes)
	}
	return events
}

func (r redacted) Status() sdktrace.Status {
	status := r.ReadOnlySpan.Status()
	status.Description = cleaned(status.Description)
	return status
}

// redactAll returns the attributes, or others where there is something to take out.
func redactAll(attributes []attribute.KeyValue) []attribute.KeyValue {
	for i, a := range attributes {
		if a.Value.Type() != attribute.STRING {
			continue
		}
		if text := cleaned(a.Value.AsString()); text != a.Value.AsString() {
			attributes = slices.Clone(attributes) // they are the span's
			attributes[i].Value = attribute.StringValue(text)
		}
	}
	return attributes
}

// cleaned is a text without secrets, and without what isn't UTF-8: for one such byte, which a path may have, nothing
// that is sent together could be.
func cleaned(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) < shortestSecret {
		return text
	}
	return logging.Redact(text)
}
