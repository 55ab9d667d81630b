// Package telemetry has OpenTelemetry's traces and metrics leave a process: pushed by OTLP, as the standard variables
// OTEL_* say, and to be fetched in Prometheus' form. What is measured stands with what it is about; here is how it gets
// out, and the bounds of what strangers can make of it. Where nothing is set there is no Telemetry, and no cost.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"golang.org/x/time/rate"
)

const (
	// Scope names what is measured by this module, as opposed to a library.
	Scope = "claudepool"

	// flushTime bounds the end: the platform leaves ten seconds for all of it.
	flushTime = time.Second
	// errorPause is how often an error of an exporter is logged: a receiver that is away makes one every few seconds.
	errorPause = time.Minute
	// longestValue is how much of an attribute's text is kept, in bytes.
	longestValue = 256
)

// Options are the settings of a process's telemetry, beside what OTEL_* say.
type Options struct {
	Logger  *slog.Logger
	Service string // its name, unless OTEL_SERVICE_NAME says another
	// MetricsAddr is the host:port where /metrics is served; empty is not at all.
	MetricsAddr string
	// TracesPerSecond bounds the traces that are sampled, whatever the ratio.
	TracesPerSecond int
}

// Telemetry is what a process's traces and metrics go to. A nil one is none: its methods do nothing and return what
// they were given. They may be called concurrently.
type Telemetry struct {
	log     *slog.Logger
	traces  *sdktrace.TracerProvider // nil: there are no traces
	sampler boundedSampler           // of the traces
	metrics *sdkmetric.MeterProvider // nil: there are no metrics
	server  *http.Server             // of /metrics; nil: there is none
	addr    net.Addr
}

// Start returns a process's Telemetry, or nil where neither OTEL_* nor the options ask for any. It has to be shut down.
// Libraries that look for a global provider find this one.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	out, err := readEnvironment()
	if err != nil || !out.traces && !out.metrics && o.MetricsAddr == "" {
		return nil, err
	}
	t := &Telemetry{log: o.Logger}
	complaint := rate.Sometimes{First: 1, Interval: errorPause}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		complaint.Do(func() { o.Logger.Warn("telemetry", "error", err) })
	}))
	if err := t.start(ctx, o, out); err != nil {
		t.Shutdown()
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return t, nil
}

func (t *Telemetry) start(ctx context.Context, o Options, out outputs) error {
	of, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName(o.Service), semconv.ServiceInstanceID(uuid.NewString())),
		resource.WithFromEnv())
	if err != nil {
		return err
	}
	if out.traces {
		exporter, err := newTraceExporter(ctx)
		if err != nil {
			return err
		}
		t.sampler = newSampler(out.ratio, o.TracesPerSecond)
		t.traces = newTracerProvider(of, exporter, t.sampler)
		otel.SetTracerProvider(t.traces)
	}
	var readers []sdkmetric.Reader
	if out.metrics {
		exporter, err := newMetricExporter(ctx)
		if err != nil {
			return err
		}
		readers = append(readers, sdkmetric.NewPeriodicReader(exporter))
	}
	if o.MetricsAddr != "" {
		reader, err := t.serve(ctx, o.MetricsAddr)
		if err != nil {
			return err
		}
		readers = append(readers, reader)
	}
	if len(readers) > 0 {
		t.metrics = newMeterProvider(of, readers)
		otel.SetMeterProvider(t.metrics)
	}
	return nil
}

func newTracerProvider(of *resource.Resource, exporter sdktrace.SpanExporter,
	sampler sdktrace.Sampler) *sdktrace.TracerProvider {
	limits := sdktrace.NewSpanLimits()
	if limits.AttributeValueLengthLimit < 0 { // which is the standard's default
		limits.AttributeValueLengthLimit = longestValue
	}
	return sdktrace.NewTracerProvider(sdktrace.WithResource(of), sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithSampler(sampler), sdktrace.WithBatcher(redacting{exporter}))
}

// Meter is where this module's own instruments are made.
func (t *Telemetry) Meter() metric.Meter {
	if t == nil || t.metrics == nil {
		return noop.Meter{}
	}
	return t.metrics.Meter(Scope)
}

// MetricsAddr is where /metrics is served, or nil.
func (t *Telemetry) MetricsAddr() net.Addr {
	if t == nil {
		return nil
	}
	return t.addr
}

// Shutdown sends what there is, for a second at most, and ends.
func (t *Telemetry) Shutdown() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	var errs []error
	if t.traces != nil {
		errs = append(errs, t.traces.Shutdown(ctx))
	}
	if t.metrics != nil {
		errs = append(errs, t.metrics.Shutdown(ctx))
	}
	if t.server != nil {
		errs = append(errs, t.server.Close())
	}
	if err := errors.Join(errs...); err != nil {
		t.log.Warn("not all telemetry could be sent", "error", err)
	}
}

// isSet reports whether one of the variables is.
func isSet(names ...string) bool {
	for _, name := range names {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}
