package poold

import (
	"bytes"
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

// What lines of a process are told by. Within a text each quotation mark has a backslash before it.
var (
	isDelta  = []byte(`"type":"content_block_delta"`)
	isResult = []byte(`"type":"result"`)
	isError  = []byte(`"is_error":true`)
)

// backend returns the backend with each turn measured.
func (m *measures) backend(of server.Backend, instance string) server.Backend {
	if m == nil {
		return of
	}
	return measuredBackend{Backend: of, measures: m, instance: instance}
}

type measuredBackend struct {
	server.Backend
	*measures
	instance string
}

// Acquire is of server.Backend.
func (b measuredBackend) Acquire(ctx context.Context, req *api.Request, outage bool) (server.Turn, error) {
	t := &measuredTurn{measures: b.measures, began: time.Now(), model: b.models.Of(req.Model), about: []attribute.KeyValue{
		semconv.UserHash(api.ShortUser(req.UserID())), attribute.String("claudepool.instance", b.instance)}}
	within, span := telemetry.Span(ctx, "acquire")
	turn, err := b.Backend.Acquire(within, req, outage)
	telemetry.End(span, err)
	if err != nil {
		if outcome := outcomeOf(ctx, err); !isElsewhere(err) {
			t.turns.Add(ctx, 1, b.sets.of(turnKeys, "none", "none", cmp.Or(outcome, outcomeUnserved)))
		}
		return nil, err
	}
	t.Turn = turn
	return t, nil
}

// measuredTurn is for one goroutine, as a Turn is.
type measuredTurn struct {
	server.Turn
	*measures
	began   time.Time
	model   string
	about   []attribute.KeyValue // of its spans
	waiting trace.Span           // for the first token
	first   time.Duration        // until it came; 0: it hasn't
	failed  bool                 // the result says so
}

// Run is of server.Turn.
func (t *measuredTurn) Run(ctx context.Context, sent func(),
	emit func(ctx context.Context, lines [][]byte) error) error {
	within, span := telemetry.Span(ctx, "turn", append(t.about, semconv.GenAIOperationNameChat,
		semconv.GenAIProviderNameAnthropic, semconv.GenAIRequestModel(t.model))...)
	_, t.waiting = telemetry.Span(within, "first token")
	err := t.Turn.Run(within, sent, func(ctx context.Context, lines [][]byte) error {
		t.look(lines)
		return emit(ctx, lines)
	})
	t.waiting.End() // once more, if it has come
	receipt, outcome := t.Turn.Receipt(), t.outcome(ctx, err)
	span.SetAttributes(attribute.String("claudepool.process", receipt.Process),
		attribute.String("claudepool.context", receipt.Context), attribute.String("claudepool.outcome", outcome),
		attribute.Int64("claudepool.api_calls", receipt.APICalls))
	telemetry.End(span, err)
	t.record(context.WithoutCancel(within), receipt, outcome)
	return err
}

// look sees what lines tell of the turn.
func (t *measuredTurn) look(lines [][]byte) {
	for _, line := range lines {
		if t.first == 0 && bytes.Contains(line, isDelta) {
			t.first = time.Since(t.began)
			t.waiting.End()
		}
	}
	if last := lines[len(lines)-1]; bytes.Contains(last, isResult) {
		t.failed = bytes.Contains(last, isError)
	}
}

func (t *measuredTurn) outcome(ctx context.Context, err error) string {
	switch {
	case err == nil && !t.failed:
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

func (t *measuredTurn) record(ctx context.Context, receipt api.Receipt, outcome string) {
	t.turns.Add(ctx, 1, t.sets.of(turnKeys, receipt.Process, receipt.Context, outcome))
	of := t.sets.of(timeKeys, semconv.GenAIOperationNameChat.Value.AsString(),
		semconv.GenAIProviderNameAnthropic.Value.AsString(), cmp.Or(t.model, "unset"), receipt.Process)
	t.turnTime.Record(ctx, time.Since(t.began).Seconds(), of)
	if t.first > 0 {
		t.firstToken.Record(ctx, t.first.Seconds(), of)
		queued := time.Duration(receipt.Queue * float64(time.Millisecond)) // behind the user's own turns
		t.firstTokens.Add(ctx, 1, t.sets.of(withinKeys, within(t.first-queued)))
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

// What turns are counted and timed by.
var (
	withinKeys = []attribute.Key{"within"}

	turnKeys = []attribute.Key{"process", "context", "outcome"}
	timeKeys = []attribute.Key{semconv.GenAIOperationNameKey, semconv.GenAIProviderNameKey, semconv.GenAIRequestModelKey,
		"process"}
)
