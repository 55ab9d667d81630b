package telemetry

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/oauth2/google"
)

// The standard's variables that are read here; the exporters read those of the endpoints, headers and certificates.
const (
	endpoint        = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesEndpoint  = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	metricsEndpoint = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
	tracesExporter  = "OTEL_TRACES_EXPORTER"
	metricsExporter = "OTEL_METRICS_EXPORTER"
	protocol        = "OTEL_EXPORTER_OTLP_PROTOCOL"
	tracesProtocol  = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	metricsProtocol = "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"
	sdkDisabled     = "OTEL_SDK_DISABLED"
	sampler         = "OTEL_TRACES_SAMPLER"
	samplerArg      = "OTEL_TRACES_SAMPLER_ARG"
	exemplarFilter  = "OTEL_METRICS_EXEMPLAR_FILTER"
)

var (
	errExporter = errors.New("telemetry: OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER must be otlp or none; " +
		"METRICS_ADDR is for Prometheus")
	errProtocol = errors.New("telemetry: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf")
	errRatio    = errors.New("telemetry: OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1")
)

// outputs are what the environment asks for.
type outputs struct {
	traces, metrics bool
	ratio           float64 // of traces that are sampled
}

// readEnvironment reads the standard's variables. Its error names the one that is wrong, and not its value.
func readEnvironment() (out outputs, err error) {
	if strings.EqualFold(os.Getenv(sdkDisabled), "true") {
		return out, nil
	}
	for _, name := range []string{tracesExporter, metricsExporter} {
		if value := os.Getenv(name); value != "" && value != "otlp" && value != "none" {
			return out, errExporter
		}
	}
	for _, name := range []string{protocol, tracesProtocol, metricsProtocol} {
		if value := os.Getenv(name); value != "" && value != "http/protobuf" {
			return out, errProtocol
		}
	}
	out.traces = isSet(endpoint, tracesEndpoint, tracesExporter) && os.Getenv(tracesExporter) != "none"
	out.metrics = isSet(endpoint, metricsEndpoint, metricsExporter) && os.Getenv(metricsExporter) != "none"
	out.ratio, err = strconv.ParseFloat(cmp.Or(os.Getenv(samplerArg), "1"), 64)
	if err != nil || !(out.ratio >= 0 && out.ratio <= 1) {
		return out, errRatio
	}
	if strings.HasSuffix(os.Getenv(sampler), "always_off") {
		out.ratio = 0
	}
	return out, nil
}

func newTraceExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	var opts []otlptracehttp.Option
	client, err := platformClient(ctx, tracesEndpoint)
	if client != nil {
		opts = append(opts, otlptracehttp.WithHTTPClient(client))
	}
	if err != nil {
		return nil, err
	}
	return otlptracehttp.New(ctx, opts...)
}

func newMetricExporter(ctx context.Context) (sdkmetric.Exporter, error) {
	var opts []otlpmetrichttp.Option
	client, err := platformClient(ctx, metricsEndpoint)
	if client != nil {
		opts = append(opts, otlpmetrichttp.WithHTTPClient(client))
	}
	if err != nil {
		return nil, err
	}
	return otlpmetrichttp.New(ctx, opts...)
}

// platformClient is what Google's own endpoint is asked with, as it wants the service's account; nil for any other.
func platformClient(ctx context.Context, ofSignal string) (*http.Client, error) {
	to, err := url.Parse(cmp.Or(os.Getenv(ofSignal), os.Getenv(endpoint)))
	if err != nil || to.Scheme != "https" || !strings.HasSuffix(to.Hostname(), ".googleapis.com") {
		return nil, nil // what is wrong with it, the exporter says
	}
	return google.DefaultClient(context.WithoutCancel(ctx), "https://www.googleapis.com/auth/cloud-platform")
}
