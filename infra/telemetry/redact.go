package telemetry

import (
	"context"
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

func (r redacted) Name() string { return logging.Redact(r.ReadOnlySpan.Name()) }

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

// unwanted are attributes that spans leave without: who a client is, and what is the same in all of them. Each takes
// time to send, too.
var unwanted = map[attribute.Key]bool{"client.address": true, "user_agent.original": true, "url.scheme": true,
	"network.peer.address": true, "network.peer.port": true, "network.protocol.version": true,
	"network.protocol.name": true, "server.port": true}

func redactAll(attributes []attribute.KeyValue) []attribute.KeyValue {
	wanted := make([]attribute.KeyValue, 0, len(attributes))
	for _, a := range attributes {
		if unwanted[a.Key] {
			continue
		}
		if a.Value.Type() == attribute.STRING {
			a.Value = attribute.StringValue(cleaned(a.Value.AsString()))
		}
		wanted = append(wanted, a)
	}
	return wanted
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
