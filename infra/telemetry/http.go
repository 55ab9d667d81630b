package telemetry

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Public returns the handler with each request counted, timed and, as often as it is to be, traced that a client makes.
// A client's trace goes on, and is sampled as any other, whatever the client says. What isn't sampled doesn't pass
// otelhttp: most of what that does is for spans.
func (t *Telemetry) Public(next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	all := next
	if t.metrics != nil {
		all = t.timed(next)
	}
	traced := all
	if t.traces != nil {
		traced = otelhttp.NewHandler(all, "", append(t.tracing(), otelhttp.WithPropagators(publicPropagator{}))...)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/health":
			next.ServeHTTP(w, r)
		case t.traces != nil && t.sampler.begins():
			traced.ServeHTTP(w, r)
		default:
			all.ServeHTTP(w, unsampled(r))
		}
	})
}

// unsampled is a client's request whose context has the client's trace, if there is one, as that of nobody here.
func unsampled(r *http.Request) *http.Request {
	if r.Header.Get("Traceparent") == "" {
		return r
	}
	theirs := trace.SpanContextFromContext(
		propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header)))
	of := trace.NewSpanContext(trace.SpanContextConfig{TraceID: theirs.TraceID(), SpanID: theirs.SpanID(), Remote: true})
	return r.WithContext(trace.ContextWithSpanContext(r.Context(), of))
}

// Hop returns the handler with each request traced that a front traces. Those that it doesn't cost nothing: it has
// counted them.
func (t *Telemetry) Hop(next http.Handler) http.Handler {
	if t == nil || t.traces == nil {
		return next
	}
	return otelhttp.NewHandler(next, "", append(t.tracing(), otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithFilter(func(r *http.Request) bool {
			of := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
			return trace.SpanContextFromContext(of).IsSampled()
		}))...)
}

// Hops returns the transport with each request traced that is part of one which is. The instance gets to know of it.
func (t *Telemetry) Hops(to http.RoundTripper) http.RoundTripper {
	return t.transport(to, true, func(*http.Request) string { return "hop" })
}

// Upstream does the same for calls of the Messages API, which gets to know of it only if it is told. name says what a
// call is.
func (t *Telemetry) Upstream(to http.RoundTripper, tells bool, name func(*http.Request) string) http.RoundTripper {
	return t.transport(to, tells, name)
}

func (t *Telemetry) transport(to http.RoundTripper, tells bool, name func(*http.Request) string) http.RoundTripper {
	if t == nil || t.traces == nil {
		return to
	}
	var into propagation.TextMapPropagator = propagation.NewCompositeTextMapPropagator() // of none
	if tells {
		into = propagation.TraceContext{}
	}
	return otelhttp.NewTransport(to, append(t.tracing(), otelhttp.WithPropagators(into),
		otelhttp.WithFilter(func(r *http.Request) bool { return trace.SpanFromContext(r.Context()).IsRecording() }),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return name(r) }))...)
}

// tracing has otelhttp trace, and count nothing.
func (t *Telemetry) tracing() []otelhttp.Option {
	return []otelhttp.Option{otelhttp.WithTracerProvider(t.traces),
		otelhttp.WithMeterProvider(metricnoop.NewMeterProvider())}
}
