package telemetry

import (
	"cmp"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// What is here and in transport.go otelhttp does too, at three times what all other spans take: it makes attributes
// that aren't wanted here, as they tell who a client is or have no end of values, and it hides from the transport that
// a hop's body is in memory, which then sends it apart from the header.

// Public returns the handler with each request counted, timed and, as often as it is to be, traced that a client makes.
// A client's trace goes on, and is sampled as any other, whatever the client says.
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
		traced = t.traced(all, publicPropagator{})
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
	traced := t.traced(next, propagation.TraceContext{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		of := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		if !trace.SpanContextFromContext(of).IsSampled() {
			next.ServeHTTP(w, r)
			return
		}
		traced.ServeHTTP(w, r)
	})
}

// traced returns the handler with a span of each request, whose parent is what its header says.
func (t *Telemetry) traced(next http.Handler, parent propagation.TextMapPropagator) http.Handler {
	tracer := t.traces.Tracer(Scope)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		within := parent.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		within, span := tracer.Start(within, methodOf(r), trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		r, of := r.WithContext(within), &answer{ResponseWriter: w}
		next.ServeHTTP(of, r)
		about := answered{methodOf(r), routeOf(r), of.code()}
		if about.route != "" {
			span.SetName(about.method + " " + about.route)
		}
		attributes := about.attributes()
		if about.route != r.URL.Path { // else it would be said twice
			attributes = append(attributes, semconv.URLPath(r.URL.Path))
		}
		span.SetAttributes(attributes...)
		if about.status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
	})
}

// answer notes its status.
type answer struct {
	http.ResponseWriter
	status int // 0: it was written without one
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader is of http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if status >= http.StatusOK { // below are those before the answer
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) code() int { return cmp.Or(a.status, http.StatusOK) }

// answered is what is told of a request.
type answered struct {
	method, route string
	status        int
}

func (a answered) attributes() []attribute.KeyValue {
	of := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(a.method),
		semconv.HTTPResponseStatusCode(a.status)}
	if a.route != "" {
		of = append(of, semconv.HTTPRoute(a.route))
	}
	return of
}

// methodOf is the request's method, if it is one of those that there are: clients may make up others.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodConnect, http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPatch,
		http.MethodPost, http.MethodPut, http.MethodTrace:
		return r.Method
	}
	return semconv.HTTPRequestMethodOther.Value.AsString()
}

// routeOf is the path of the pattern that has matched; empty: none has.
func routeOf(r *http.Request) string {
	if i := strings.IndexByte(r.Pattern, '/'); i >= 0 {
		return r.Pattern[i:]
	}
	return ""
}
