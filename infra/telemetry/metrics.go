package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
)

const (
	// mostSeries is how many series an instrument may have; what is beyond is summed up in one.
	mostSeries = 400
	// scrapesAtOnce is how many may fetch the metrics at a time.
	scrapesAtOnce = 4
	scrapeTime    = 10 * time.Second
)

// nowhere are attributes that metrics don't have: clients choose their values, or each instance brings another.
var nowhere = attribute.NewDenyKeysFilter("server.address", "server.port", "url.scheme", "network.protocol.name",
	"network.protocol.version", "network.peer.address", "network.peer.port")

func newMeterProvider(of *resource.Resource, readers []sdkmetric.Reader) *sdkmetric.MeterProvider {
	opts := []sdkmetric.Option{sdkmetric.WithResource(of), sdkmetric.WithView(view),
		sdkmetric.WithCardinalityLimit(mostSeries)}
	if !isSet(exemplarFilter) { // which the provider reads
		opts = append(opts, sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter)) // they take time in each measurement
	}
	for _, reader := range readers {
		opts = append(opts, sdkmetric.WithReader(reader))
	}
	return sdkmetric.NewMeterProvider(opts...)
}

// view makes all histograms exponential ones, whose buckets need no guess of what is usual.
func view(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	stream := sdkmetric.Stream{Name: i.Name, Description: i.Description, Unit: i.Unit}
	if i.Scope.Name != Scope { // ours have no such attributes, and a filter takes time
		stream.AttributeFilter = nowhere
	}
	switch {
	case strings.HasSuffix(i.Name, ".body.size"): // of streams nobody wants to know it
		stream.Aggregation = sdkmetric.AggregationDrop{}
	case i.Kind == sdkmetric.InstrumentKindHistogram:
		stream.Aggregation = sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}
	}
	return stream, true
}

// serve serves /metrics on a listener of its own, so that nothing else is there, and it nowhere else.
func (t *Telemetry) serve(ctx context.Context, addr string) (sdkmetric.Reader, error) {
	registry := prometheus.NewRegistry()
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
	if err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("METRICS_ADDR: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapesAtOnce, Timeout: scrapeTime, ErrorHandling: promhttp.ContinueOnError}))
	t.addr = listener.Addr()
	t.server = &http.Server{Handler: mux, ReadHeaderTimeout: scrapeTime, ReadTimeout: scrapeTime,
		WriteTimeout: 2 * scrapeTime, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(t.log.Handler(), slog.LevelDebug)}
	go func() {
		if err := t.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.log.Error("the metrics are served no more", "error", err)
		}
	}()
	t.log.Info("metrics are served", "addr", listener.Addr())
	return reader, nil
}
