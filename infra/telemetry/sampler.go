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
// is in the metrics. By chance and not by the trace's id, as clients choose that.
type boundedSampler struct {
	ratio       float64
	own, fronts *rate.Limiter
}

func newSampler(ratio float64, perSecond int) boundedSampler {
	return boundedSampler{ratio: ratio, own: rate.NewLimiter(rate.Limit(perSecond), perSecond),
		fronts: rate.NewLimiter(rate.Limit(frontsShare*perSecond), frontsShare*perSecond)}
}

// ShouldSample is of sdktrace.Sampler.
func (s boundedSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	if s.samples(p, parent) {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample} // without the state that a client may have sent
	}
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

func (s boundedSampler) samples(p sdktrace.SamplingParameters, parent trace.SpanContext) bool {
	switch {
	case parent.IsValid() && !parent.IsRemote():
		return parent.IsSampled()
	case parent.IsValid() && p.ParentContext.Value(publicKey{}) == nil:
		return parent.IsSampled() && s.fronts.Allow()
	}
	// #nosec G404 -- nothing depends on which
	return p.Kind == trace.SpanKindServer && rand.Float64() < s.ratio && s.own.Allow()
}

// Description is of sdktrace.Sampler.
func (boundedSampler) Description() string { return "claudepool" }

// publicKey marks a context whose remote parent is a client's, whose word counts for the trace's id alone.
type publicKey struct{}

// publicPropagator reads what clients send, and is otherwise the standard's.
type publicPropagator struct{ propagation.TraceContext }

// Extract is of propagation.TextMapPropagator.
func (p publicPropagator) Extract(ctx context.Context, from propagation.TextMapCarrier) context.Context {
	return context.WithValue(p.TraceContext.Extract(ctx, from), publicKey{}, true)
}
