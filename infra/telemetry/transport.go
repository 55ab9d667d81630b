package telemetry

import (
	"errors"
	"io"
	"net/http"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Hops returns the transport with each request traced that is part of one which is. The instance gets to know of it.
func (t *Telemetry) Hops(to http.RoundTripper) http.RoundTripper {
	return t.Upstream(to, true, func(*http.Request) string { return "hop" })
}

// Upstream does the same for calls of the Messages API, which gets to know of it only if it is told. name says what a
// call is.
func (t *Telemetry) Upstream(to http.RoundTripper, tells bool, name func(*http.Request) string) http.RoundTripper {
	if t == nil || t.traces == nil {
		return to
	}
	return &transport{to, tells, name}
}

// transport makes a span of each request, which ends with the answer's body.
type transport struct {
	to    http.RoundTripper
	tells bool
	name  func(*http.Request) string
}

// RoundTrip is of http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !trace.SpanFromContext(r.Context()).IsRecording() {
		return t.to.RoundTrip(r)
	}
	within, span := Span(r.Context(), t.name(r), toOthers...)
	span.SetAttributes(semconv.HTTPRequestMethodKey.String(r.Method), semconv.ServerAddress(r.URL.Hostname()))
	r = r.WithContext(within)
	if t.tells {
		r.Header = r.Header.Clone()
		propagation.TraceContext{}.Inject(within, propagation.HeaderCarrier(r.Header))
	}
	response, err := t.to.RoundTrip(r)
	if err != nil {
		End(span, err)
		return nil, err
	}
	span.SetAttributes(semconv.HTTPResponseStatusCode(response.StatusCode))
	if response.StatusCode >= http.StatusBadRequest {
		span.SetStatus(codes.Error, "")
	}
	response.Body = &tracedBody{response.Body, span}
	return response, nil
}

// tracedBody ends its span when it has been read, or won't be.
type tracedBody struct {
	io.ReadCloser
	span trace.Span
}

func (b *tracedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.span.End()
	case err != nil:
		End(b.span, err)
	}
	return n, err
}

func (b *tracedBody) Close() error {
	b.span.End()
	return b.ReadCloser.Close()
}
