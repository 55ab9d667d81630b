package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"claudepool/infra/testkit"
	"claudepool/infra/testkit/collector"
)

// telemetrySizes are how much is compared at each ratio: rounds of new services, in which both have 200 requests. That
// takes as long as it takes until spans are sent.
var (
	fullTelemetry  = sizes{rounds: 10, talks: 8, requests: 25, resamples: 4000}
	quickTelemetry = sizes{rounds: 2, talks: 1, requests: 2, resamples: 100}
)

// sampled are the parts of the requests that are traced, one after the other.
var sampled = []string{"0", "0.1", "1"}

// telemetry compares a service that sends traces and metrics with one that doesn't, of the same code and taking turns,
// and prints what that adds to short requests with the scripted CLI. The receiver is here, and no part of what is
// measured but for the processor that it takes.
func (l *lab) telemetry(ctx context.Context, isQuick bool, out io.Writer) error {
	receiver, err := collector.New()
	if err != nil {
		return err
	}
	defer receiver.Close()
	s := fullTelemetry
	if isQuick {
		s = quickTelemetry
	}
	load := testkit.LoadAverages()
	compared := make([]*comparison, len(sampled))
	for i, ratio := range sampled {
		c := &comparison{lab: l, sizes: s}
		c.sides[base] = side{name: "off", programs: l.programs}
		c.sides[now] = side{name: "on", programs: l.programs, settings: []string{
			"OTEL_EXPORTER_OTLP_ENDPOINT=" + receiver.URL(), "OTEL_TRACES_SAMPLER_ARG=" + ratio, "TRACES_PER_SECOND=10000"}}
		compared[i] = c
	}
	for n := range s.rounds {
		for i, c := range compared { // in turn, so that what drifts hits all ratios alike
			if err := c.round(ctx, n, c.withScripted, 0, c.shortRequests); err != nil {
				return fmt.Errorf("sampled %s: %w", sampled[i], err)
			}
			receiver.Forget()
		}
		l.say("telemetry: round %d of %d", n+1, s.rounds)
	}
	return writeTelemetry(out, compared, isQuick, load)
}

// shortRequests measures those alone.
func (c *comparison) shortRequests(ctx context.Context, n int, both servicePair) error {
	if err := c.warmUp(ctx, both); err != nil {
		return err
	}
	for range c.sizes.talks {
		if err := c.talk(ctx, n, both); err != nil {
			return err
		}
	}
	return nil
}

// writeTelemetry prints the table.
func writeTelemetry(out io.Writer, compared []*comparison, isQuick bool, load string) error {
	quick := ""
	if isQuick {
		quick = ". This was -quick: the numbers mean nothing"
	}
	fmt.Fprintf(out, "on %s; load averages at the start %s, at the end %s%s\n\n",
		machine(), load, testkit.LoadAverages(), quick)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "traced\tfigure\toff\ton\tadded\tratio\t95 % interval\tpairs\trounds")
	for i, c := range compared {
		for _, r := range []row{
			{"first token", c.shorts.first, duration}, {"total", c.shorts.total, duration},
			{"CPU time of the service", c.requestCPU, duration}, {"allocations", c.requestAllocs, count},
		} {
			was, is, in := median(r.of.of(base)), median(r.of.of(now)), compare(r.of.rounds, c.sizes.resamples)
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%.3f\t%.3f to %.3f\t%d\t%d\n", sampled[i], r.name, r.show(was), r.show(is),
				r.show(is-was), in.ratio, in.low, in.high, len(r.of.of(base)), len(r.of.rounds))
		}
	}
	return table.Flush()
}
