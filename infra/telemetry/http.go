package telemetry

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Public returns the handler with each request measured that a client makes. A client's trace goes on, and is sampled
// as often as any other, whatever the client says.
func (t *Telemetry) Public(next http.Handler) http.Handler {
	return t.handler(next, publicPropagator{})
}

// Hop returns the handler with each request measured that a front makes, which has decided what is sampled.
func (t *Telemetry) Hop(next http.Handler) http.Handler {
	return t.handler(next, propagation.TraceContext{})
}

func (t *Telemetry) handler(next http.Handler, from propagation.TextMapPropagator) http.Handler {
	if t == nil {
		return next
	}
	return otelhttp.NewHandler(next, "", append(t.providers(), otelhttp.WithPropagators(from),
		otelhttp.WithFilter(func(r *http.Request) bool { return r.URL.Path != "/health" }))...)
}

// Hops returns the transport with each request measured. The instance gets to know the trace.
func (t *Telemetry) Hops(to http.RoundTripper) http.RoundTripper {
	return t.transport(to, true, func(*http.Request) string { return "hop" })
}

// Upstream does the same for calls of the Messages API, which gets to know the trace only if it is told. name says what
// a call is.
func (t *Telemetry) Upstream(to http.RoundTripper, tells bool, name func(*http.Request) string) http.RoundTripper {
	return t.transport(to, tells, name)
}

func (t *Telemetry) transport(to http.RoundTripper, tells bool, name func(*http.Request) string) http.RoundTripper {
	if t == nil {
		return to
	}
	var into propagation.TextMapPropagator = propagation.NewCompositeTextMapPropagator() // of none
	if tells && t.traces != nil {                                                        // or a client's own header would come out as it came in
		into = propagation.TraceContext{}
	}
	return otelhttp.NewTransport(to, append(t.providers(), otelhttp.WithPropagators(into),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return name(r) }))...)
}

func (t *Telemetry) providers() []otelhttp.Option {
	var traces trace.TracerProvider = tracenoop.NewTracerProvider()
	var metrics metric.MeterProvider = metricnoop.NewMeterProvider()
	if t.traces != nil {
		traces = t.traces
	}
	if t.metrics != nil {
		metrics = t.metrics
	}
	return []otelhttp.Option{otelhttp.WithTracerProvider(traces), otelhttp.WithMeterProvider(metrics)}
}
