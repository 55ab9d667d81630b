package poold

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"

	"claudepool/pool/broker"
)

// operations are what calls are, by the ends of their paths.
var operations = []struct{ path, name string }{
	{"/messages", "chat"}, {"/count_tokens", "count_tokens"}, {"/models", "models"},
}

// calls returns what the broker's transport is measured by, nil for not at all.
func (m *measures) calls(tellsUpstream bool) func(http.RoundTripper) http.RoundTripper {
	if m == nil {
		return nil
	}
	return func(to http.RoundTripper) http.RoundTripper {
		return m.telemetry.Upstream(measuredCalls{to, m}, tellsUpstream,
			func(r *http.Request) string { return operationOf(r.URL.Path) })
	}
}

// measuredCalls adds what is known of a call of the Messages API to what is known of any request. Tokens aren't: they
// are in the answers.
type measuredCalls struct {
	to http.RoundTripper
	*measures
}

// RoundTrip is of http.RoundTripper.
func (c measuredCalls) RoundTrip(r *http.Request) (*http.Response, error) {
	call := &measuredCall{measures: c.measures, ctx: r.Context(), began: time.Now(), operation: operationOf(r.URL.Path)}
	response, err := c.to.RoundTrip(r)
	if err != nil {
		call.end(typeOf(err))
		return nil, err
	}
	call.answered(response.StatusCode)
	response.Body = &measuredAnswer{response.Body, call}
	return response, nil
}

func operationOf(path string) string {
	for _, o := range operations {
		if strings.HasSuffix(path, o.path) {
			return o.name
		}
	}
	return "models" // one of them
}

// measuredCall is one call.
type measuredCall struct {
	*measures
	ctx       context.Context
	began     time.Time
	operation string
	status    int
	once      sync.Once
}

// answered notes the answer's status. A model is known once the API has taken it.
func (c *measuredCall) answered(status int) {
	c.status = status
	model := broker.ModelOf(c.ctx)
	if status == http.StatusOK && model != "" && c.operation == "chat" {
		c.models.Learn(model)
	}
	trace.SpanFromContext(c.ctx).SetAttributes(c.about()...)
}

// about are the attributes of span and metric.
func (c *measuredCall) about() []attribute.KeyValue {
	about := []attribute.KeyValue{semconv.GenAIOperationNameKey.String(c.operation), semconv.GenAIProviderNameAnthropic}
	if model := broker.ModelOf(c.ctx); model != "" {
		about = append(about, semconv.GenAIRequestModel(c.models.Of(model)))
	}
	return about
}

// end records the call, once.
func (c *measuredCall) end(failure string) {
	c.once.Do(func() {
		about := c.about()
		if broker.IsRetry(c.ctx) {
			c.retries.Add(c.ctx, 1, metric.WithAttributeSet(attribute.NewSet(about...)))
		}
		if failure == "" && c.status >= 400 {
			failure = strconv.Itoa(c.status)
		}
		if failure != "" {
			about = append(about, semconv.ErrorTypeKey.String(failure))
		}
		c.callTime.Record(context.WithoutCancel(c.ctx), time.Since(c.began).Seconds(),
			metric.WithAttributeSet(attribute.NewSet(about...)))
	})
}

// typeOf names what kept an answer from coming.
func typeOf(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "connection"
}

// measuredAnswer is an answer's body, with whose end the call ends.
type measuredAnswer struct {
	io.ReadCloser
	of *measuredCall
}

func (a *measuredAnswer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		a.of.end("")
	case err != nil:
		a.of.end(typeOf(err))
	}
	return n, err
}

func (a *measuredAnswer) Close() error {
	a.of.end("")
	return a.ReadCloser.Close()
}
