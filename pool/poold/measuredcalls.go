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

	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"

	"claudepool/infra/prices"
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
// are in the answers, see billed.
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
	if span := trace.SpanFromContext(c.ctx); span.IsRecording() {
		span.SetAttributes(semconv.GenAIOperationNameKey.String(c.operation), semconv.GenAIProviderNameAnthropic,
			semconv.GenAIRequestModel(c.model()))
	}
}

// model is what the call's model is called; empty where it names none.
func (c *measuredCall) model() string {
	if model := broker.ModelOf(c.ctx); model != "" {
		return c.models.Of(model)
	}
	return ""
}

// end records the call, once.
func (c *measuredCall) end(failure string) {
	c.once.Do(func() {
		if failure == "" && c.status >= 400 {
			failure = strconv.Itoa(c.status)
		}
		of := labels{operation: c.operation, model: c.model()}
		if broker.IsRetry(c.ctx) {
			c.retries.Add(c.ctx, 1, c.sets.Of(of).Add...)
		}
		of.failure = failure
		c.callTime.Record(c.ctx, time.Since(c.began).Seconds(), c.sets.Of(of).Record...)
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
	a.of.end("canceled") // unless all of it was read
	return a.ReadCloser.Close()
}

// billed returns what is told of each call that is paid for, nil for nothing. Cost is in dollars.
func (m *measures) billed() func(took broker.Usage, cost float64) {
	if m == nil {
		return nil
	}
	return func(took broker.Usage, cost float64) {
		ctx, model := context.Background(), prices.Name(took.Model)
		for _, some := range []struct {
			kind string
			n    int64
		}{{"input", took.Input}, {"output", took.Output}, {"cache_read", took.CacheRead},
			{"cache_write", took.CacheWrite5m + took.CacheWrite1h}} {
			if some.n > 0 {
				m.tokens.Add(ctx, some.n, m.sets.Of(labels{model: model, kind: some.kind}).Add...)
			}
		}
		m.cost.Add(ctx, cost, m.sets.Of(labels{model: model}).Add...)
	}
}
