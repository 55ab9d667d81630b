package poold

import (
	"cmp"
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"

	"claudepool/infra/telemetry"
	"claudepool/pool"
	"claudepool/pool/api"
	"claudepool/pool/server"
	"claudepool/router"
)

// How a turn ended, as metrics tell it.
const (
	outcomeGood      = "good"
	outcomeError     = "error"     // its result says so
	outcomeFailed    = "failed"    // there is no result
	outcomeUnserved  = "unserved"  // it never began, and that was not for its client to change
	outcomeRefused   = "refused"   // its client is told what to change: 4xx, a spent budget for one
	outcomeAbandoned = "abandoned" // its client has gone
)

// source is a pool as it is measured.
type source interface {
	server.Backend
	acquire(ctx context.Context, req *api.Request, outage bool) (turn, error)
}

// turn is one of the pool's, which tells more than the server asks.
type turn interface {
	server.Turn
	FirstToken() time.Duration
	IsError() bool
}

// backend returns the pool with each turn measured.
func (m *measures) backend(of source, instance string) server.Backend {
	if m == nil {
		return of
	}
	return measuredBackend{source: of, measures: m, instance: attribute.String("claudepool.instance", instance)}
}

type measuredBackend struct {
	source
	*measures
	instance attribute.KeyValue // of turns' spans
}

// Acquire is of server.Backend.
func (b measuredBackend) Acquire(ctx context.Context, req *api.Request, outage bool) (server.Turn, error) {
	began := time.Now()
	within, span := telemetry.Span(ctx, "acquire")
	turn, err := b.acquire(within, req, outage)
	telemetry.End(span, err)
	if err != nil {
		if !isElsewhere(err) {
			outcome := cmp.Or(outcomeOf(ctx, err), outcomeUnserved)
			b.turns.Add(labels{process: "none", context: "none", outcome: outcome})
		}
		return nil, err
	}
	return &measuredTurn{turn: turn, of: b, req: req, began: began}, nil
}

// measuredTurn is for one goroutine, as a Turn is.
type measuredTurn struct {
	turn
	of    measuredBackend
	req   *api.Request
	began time.Time
}

// Run is of server.Turn.
func (t *measuredTurn) Run(ctx context.Context, sent func(),
	emit func(ctx context.Context, lines [][]byte) error) error {
	runs := time.Now()
	within, span := telemetry.Span(ctx, "turn")
	err := t.turn.Run(within, sent, emit)
	receipt, outcome, model := t.Receipt(), t.outcome(ctx, err), t.of.models.Of(t.req.Model)
	if span.IsRecording() {
		span.SetAttributes(semconv.UserHash(api.ShortUser(t.req.UserID())), t.of.instance, semconv.GenAIOperationNameChat,
			semconv.GenAIProviderNameAnthropic, semconv.GenAIRequestModel(model),
			attribute.String("claudepool.process", receipt.Process), attribute.String("claudepool.context", receipt.Context),
			attribute.String("claudepool.outcome", outcome), attribute.Int64("claudepool.api_calls", receipt.APICalls))
		t.traceFirstToken(within, runs)
	}
	telemetry.End(span, err)
	t.record(within, receipt, outcome, model)
	return err
}

// traceFirstToken makes a span of the wait for it, which is over.
func (t *measuredTurn) traceFirstToken(ctx context.Context, from time.Time) {
	until := time.Now()
	if first := t.FirstToken(); first > 0 {
		until = t.began.Add(first)
	}
	_, span := telemetry.Span(ctx, "first token", trace.WithTimestamp(from))
	span.End(trace.WithTimestamp(until))
}

func (t *measuredTurn) outcome(ctx context.Context, err error) string {
	switch {
	case err == nil && !t.IsError():
		return outcomeGood
	case err == nil:
		return outcomeError
	}
	return cmp.Or(outcomeOf(ctx, err), outcomeFailed)
}

// outcomeOf is how a turn ended that its client has ended, or was told why it can't be; else empty.
func outcomeOf(ctx context.Context, err error) string {
	var told *api.Error
	switch {
	case ctx.Err() != nil:
		return outcomeAbandoned
	case errors.As(err, &told) && told.Status < 500:
		return outcomeRefused
	}
	return ""
}

// isElsewhere reports whether the front asks again, here or at another instance, which counts the turn.
func isElsewhere(err error) bool {
	return errors.Is(err, router.ErrNotOwner) || errors.Is(err, router.ErrNotNow) || errors.Is(err, pool.ErrDraining)
}

func (t *measuredTurn) record(ctx context.Context, receipt api.Receipt, outcome, model string) {
	m := t.of
	m.turns.Add(labels{process: receipt.Process, context: receipt.Context, outcome: outcome})
	of := m.sets.Of(labels{operation: semconv.GenAIOperationNameChat.Value.AsString(), model: cmp.Or(model, "unset"),
		process: receipt.Process})
	m.turnTime.Record(ctx, time.Since(t.began).Seconds(), of.Record...)
	if first := t.FirstToken(); first > 0 {
		m.firstToken.Record(ctx, first.Seconds(), of.Record...)
		queued := time.Duration(receipt.Queue * float64(time.Millisecond)) // behind the user's own turns
		m.firstTokens.Add(labels{within: within(first - queued)})
	}
}

// limits are what alerts ask for: of a histogram whose buckets are where they are, nobody could tell how much is below.
var limits = []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second}

// within names the least of the limits that d keeps.
func within(d time.Duration) string {
	for _, limit := range limits {
		if d <= limit {
			return limit.String()
		}
	}
	return "more"
}
