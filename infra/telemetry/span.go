package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Span begins a part of what is traced in ctx, and has to be ended. Where nothing is, it costs a look at ctx.
func Span(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	within := trace.SpanFromContext(ctx)
	if !within.IsRecording() {
		return ctx, nothing
	}
	return within.TracerProvider().Tracer(Scope).Start(ctx, name, opts...)
}

// toOthers are the options of a span that is about what another process does. They stand here as one is asked for more
// often than there is a span.
var toOthers = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}

// nothing is a span whose methods do nothing.
var nothing = trace.SpanFromContext(context.Background())

// End ends a span, and says why if what it is about has failed.
func End(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
