package telemetry

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

func TestNames_KnowOnlySoMany(t *testing.T) {
	names := NewNames(3, "haiku", "opus")
	names.Learn("new")
	names.Learn("newer")
	require.Equal(t, []string{"haiku", "new", Other, Other},
		[]string{names.Of("haiku"), names.Of("new"), names.Of("newer"), names.Of("made up")})
}

func TestMetrics_AreServedOnAListenerOfTheirOwnUntilTheEnd(t *testing.T) {
	var log bytes.Buffer
	measured, err := Start(t.Context(), Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Service: "s",
		MetricsAddr: "127.0.0.1:0", TracesPerSecond: 1})
	require.NoError(t, err)
	url := "http://" + measured.MetricsAddr().String() + "/metrics"
	counter, err := measured.Meter().Int64Counter("claudepool.test")
	require.NoError(t, err)
	public := measured.Public(nobody)
	for i := range 2 * mostSeries {
		counter.Add(t.Context(), 1, metric.WithAttributes(attribute.Int("made.up", i)))
		ask(public, fmt.Sprintf("http://host-%d.example:%d/", i, 1000+i), "") // a client chooses the Host, too
	}
	text := get(t, url)
	require.Equal(t, mostSeries, strings.Count(text, "claudepool_test_total{"))
	require.Equal(t, 1, strings.Count(text, "http_server_request_duration_seconds_count{"))
	require.False(t, strings.Contains(text, "host-1"))
	response, err := http.Get(strings.TrimSuffix(url, "metrics"))
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, http.StatusNotFound, response.StatusCode)
	measured.Shutdown()
	_, err = net.Dial("tcp", measured.MetricsAddr().String())
	require.Error(t, err)
	_, err = Start(t.Context(), Options{Logger: slog.New(slog.DiscardHandler), MetricsAddr: "192.0.2.1:1"})
	require.ErrorContains(t, err, "METRICS_ADDR")
}

func TestMetrics_HaveExemplarsIfTheyAreAskedFor(t *testing.T) {
	always, _ := kept(t, 1, 100)
	for _, filter := range []string{"", "trace_based"} {
		t.Setenv(exemplarFilter, filter)
		reader := sdkmetric.NewManualReader()
		metrics := newMeterProvider(resource.Empty(), []sdkmetric.Reader{reader})
		counter, err := metrics.Meter(Scope).Int64Counter("n")
		require.NoError(t, err)
		ask(always.Public(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			counter.Add(r.Context(), 1)
		})), "/", "")
		var got metricdata.ResourceMetrics
		require.NoError(t, reader.Collect(t.Context(), &got))
		point := got.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints[0]
		require.Equal(t, filter != "", len(point.Exemplars) == 1)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(text)
}

func TestCounts_AreReadTogetherWhoeverCounts(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	meter := newMeterProvider(resource.Empty(), []sdkmetric.Reader{reader}).Meter(Scope)
	attributes := func(k string) []attribute.KeyValue { return []attribute.KeyValue{attribute.String("k", k)} }
	for range 2 { // as of two instances in a program
		counts, err := NewCounts(meter, attributes, "n", "{n}", "Of a test.")
		require.NoError(t, err)
		for _, k := range []string{"a", "b", "a"} {
			counts.Add(k)
		}
	}
	for range 2 { // and once more, which changes nothing
		var got metricdata.ResourceMetrics
		require.NoError(t, reader.Collect(t.Context(), &got))
		sums := make(map[string]int64)
		for _, point := range got.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints {
			value, _ := point.Attributes.Value("k")
			sums[value.AsString()] = point.Value
		}
		require.Equal(t, map[string]int64{"a": 4, "b": 2}, sums)
	}
}
