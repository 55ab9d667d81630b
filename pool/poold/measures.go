package poold

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/semconv/v1.41.0/genaiconv"

	"claudepool/infra/telemetry"
	"claudepool/pool"
)

// mostModels is how many models have series of their own.
const mostModels = 16

// measures are the instruments of an instance. A nil one measures nothing. What the pool counts anyway is read when
// somebody asks; only what it doesn't know is counted here.
type measures struct {
	telemetry *telemetry.Telemetry
	meter     metric.Meter
	models    *telemetry.Names
	sets      *telemetry.Sets[labels]

	turns       *telemetry.Counts[labels]
	turnTime    metric.Float64Histogram
	firstToken  metric.Float64Histogram
	firstTokens *telemetry.Counts[labels]
	callTime    metric.Float64Histogram
	retries     metric.Int64Counter
	tokens      metric.Int64Counter
	cost        metric.Float64Counter
}

// newMeasures makes the instruments, or none where nothing is measured.
func newMeasures(t *telemetry.Telemetry) (*measures, error) {
	if t == nil {
		return nil, nil
	}
	m := &measures{telemetry: t, meter: t.Meter(), sets: telemetry.NewSets(labels.attributes),
		models: telemetry.NewNames(mostModels, "", "haiku", "sonnet", "opus")}
	var errs [8]error
	m.turns, errs[0] = telemetry.NewCounts(m.meter, labels.attributes, "claudepool.turns", "{turn}",
		"Turns by how they were served and how they ended.")
	m.turnTime, errs[1] = histogram(genaiconv.NewServerRequestDuration(m.meter))
	m.firstToken, errs[2] = histogram(genaiconv.NewServerTimeToFirstToken(m.meter))
	m.callTime, errs[3] = histogram(genaiconv.NewClientOperationDuration(m.meter))
	m.retries, errs[4] = m.meter.Int64Counter("claudepool.api.retries", metric.WithUnit("{call}"),
		metric.WithDescription("API calls that a process made after one that had failed."))
	m.firstTokens, errs[5] = telemetry.NewCounts(m.meter, labels.attributes, "claudepool.first_tokens", "{turn}",
		"Turns that came to a first token, by how long that took.")
	m.tokens, errs[6] = m.meter.Int64Counter("claudepool.api.tokens", metric.WithUnit("{token}"),
		metric.WithDescription("Tokens that API calls took, as the API says."))
	m.cost, errs[7] = m.meter.Float64Counter("claudepool.api.cost", metric.WithUnit("{dollar}"),
		metric.WithDescription("What API calls cost, by the table of prices."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("poold: %w", err)
	}
	return m, nil
}

// histogram is the instrument that one of the conventions' packages has made.
func histogram(made interface {
	Inst() metric.Float64Histogram
}, err error) (metric.Float64Histogram, error) {
	return made.Inst(), err
}

// labels are what something is measured by. Those that are empty don't stand there.
type labels struct {
	operation, model, failure string // of calls, and with process of whole turns
	process, context, outcome string // of turns
	within                    string // of first tokens
	kind                      string // of tokens
}

func (l labels) attributes() (all []attribute.KeyValue) {
	for _, a := range []attribute.KeyValue{semconv.GenAIOperationNameKey.String(l.operation),
		semconv.GenAIRequestModel(l.model), semconv.ErrorTypeKey.String(l.failure),
		attribute.String("process", l.process), attribute.String("context", l.context),
		attribute.String("outcome", l.outcome), attribute.String("within", l.within), attribute.String("type", l.kind)} {
		if a.Value.AsString() != "" {
			all = append(all, a)
		}
	}
	if l.operation != "" {
		all = append(all, semconv.GenAIProviderNameAnthropic)
	}
	return all
}

// observe has what the pool knows read when somebody asks, also after its end: the last push comes then.
func (m *measures) observe(p *pool.Pool) error {
	if m == nil {
		return nil
	}
	var errs []error
	gauge := func(name, unit, about string) metric.Int64ObservableUpDownCounter {
		made, err := m.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(about))
		errs = append(errs, err)
		return made
	}
	counter := func(name, unit, about string) metric.Int64ObservableCounter {
		made, err := m.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(about))
		errs = append(errs, err)
		return made
	}
	processes := gauge("claudepool.processes", "{process}", "Processes of users.")
	capacity := gauge("claudepool.capacity", "{process}", "Most processes of users.")
	spares := gauge("claudepool.spares", "{process}", "Processes that are ready for whoever comes.")
	queued := gauge("claudepool.queued", "{request}", "Requests that wait for their conversation.")
	memory := gauge("claudepool.tenants.memory", "By", "Memory of users' processes and all they started.")
	missed := counter("claudepool.spares.missed", "{request}", "Requests for which no process was ready that fits.")
	evictions := counter("claudepool.evictions", "{process}",
		"Processes that were ended while nothing was wrong with them, and conversations whose files gave way.")
	cpu, err := m.meter.Float64ObservableCounter("claudepool.tenants.cpu.time", metric.WithUnit("s"),
		metric.WithDescription("Processor time of users' processes and all they started."))
	if err = errors.Join(append(errs, err)...); err != nil {
		return err
	}
	_, err = m.meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		c := p.Census()
		to.ObserveInt64(processes, int64(c.Busy), with("state", "busy"))
		to.ObserveInt64(processes, int64(c.Idle), with("state", "idle"))
		to.ObserveInt64(capacity, int64(c.Capacity))
		to.ObserveInt64(spares, int64(c.Standby), with("kind", "standby"))
		to.ObserveInt64(spares, int64(c.Parked), with("kind", "parked"))
		to.ObserveInt64(missed, c.StandbyMisses, with("kind", "standby"))
		to.ObserveInt64(missed, c.ParkedMisses, with("kind", "parked"))
		to.ObserveInt64(queued, int64(c.Queued))
		to.ObserveInt64(evictions, c.EndedIdle, with("reason", "idle"))
		to.ObserveInt64(evictions, c.EndedForRoom, with("reason", "room"))
		to.ObserveInt64(evictions, c.EndedForMemory, with("reason", "memory"))
		to.ObserveInt64(evictions, c.EvictedFiles, with("reason", "files"))
		to.ObserveInt64(memory, c.Memory)
		to.ObserveFloat64(cpu, c.CPU.Seconds())
		return nil
	}, processes, capacity, spares, missed, queued, evictions, memory, cpu)
	return err
}

// with is one attribute of a measurement.
func with(key, value string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String(key, value)))
}
