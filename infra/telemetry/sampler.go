package telemetry

import (
	"context"
	"math/rand/v2"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// frontsShare is how many times the bound of its own traces an instance takes of those that fronts have sampled.
const frontsShare = 10

// sampler decides which traces are kept. Only what a request comes in with begins one: what goes on in the background
// is in the metrics.
type boundedSampler struct {
	ratio       float64
	own, fronts *rate.Limiter
}

func newSampler(ratio float64, perSecond int) boundedSampler {
	return boundedSampler{ratio: ratio, own: rate.NewLimiter(rate.Limit(perSecond), perSecond),
		fronts: rate.NewLimiter(rate.Limit(frontsShare*perSecond), frontsShare*perSecond)}
}

// begins decides whether a client's request is sampled: by chance and not by the trace's id, as clients choose that.
func (s boundedSampler) begins() bool {
	return rand.Float64() < s.ratio && s.own.Allow() // #nosec G404 -- nothing depends on which
}

// ShouldSample is of sdktrace.Sampler.
func (s boundedSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if s.samples(p.ParentContext) {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample} // without the state that a client may have sent
	}
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

func (s boundedSampler) samples(within context.Context) bool {
	parent := trace.SpanContextFromContext(within)
	switch {
	case parent.IsValid() && !parent.IsRemote():
		return parent.IsSampled()
	case within.Value(publicKey{}) != nil:
		return true
	}
	return parent.IsSampled() && s.fronts.Allow()
}

// Description is of sdktrace.Sampler.
func (boundedSampler) Description() string { return "claudepool" }

// publicKey marks the context of a client's request that is sampled. The client's word counts for the trace's id alone.
type publicKey struct{}

// publicPropagator reads what clients send whose request is sampled, and is otherwise the standard's.
type publicPropagator struct{ propagation.TraceContext }

// Extract is of propagation.TextMapPropagator.
func (p publicPropagator) Extract(ctx context.Context, from propagation.TextMapCarrier) context.Context {
	return context.WithValue(p.TraceContext.Extract(ctx, from), publicKey{}, true)
}
