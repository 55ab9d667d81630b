package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// kept is a Telemetry whose spans are kept in the test.
func kept(t *testing.T, ratio float64, perSecond int) (*Telemetry, *tracetest.InMemoryExporter) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	measured := &Telemetry{log: slog.New(slog.DiscardHandler), sampler: newSampler(ratio, perSecond)}
	measured.traces = sdktrace.NewTracerProvider(sdktrace.WithSyncer(redacting{exporter}),
		sdktrace.WithSampler(measured.sampler))
	t.Cleanup(func() { _ = measured.traces.Shutdown(context.Background()) })
	return measured, exporter
}

// ask makes a request of a handler, in a trace if there is one.
func ask(h http.Handler, path, traceparent string) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if traceparent != "" {
		r.Header.Set("Traceparent", traceparent)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
}

var nobody = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

func TestStart_WhereNothingIsSetThereIsNone(t *testing.T) {
	measured, err := Start(t.Context(), Options{Logger: slog.New(slog.DiscardHandler), TracesPerSecond: 1})
	require.NoError(t, err)
	require.Nil(t, measured)
	transport := http.DefaultTransport
	require.Equal(t, fmt.Sprintf("%p", nobody), fmt.Sprintf("%p", measured.Public(nobody)))
	require.Equal(t, fmt.Sprintf("%p", nobody), fmt.Sprintf("%p", measured.Hop(nobody)))
	require.Same(t, transport, measured.Hops(transport))
	require.Same(t, transport, measured.Upstream(transport, true, nil))
	require.NoError(t, measured.Redis(nil))
	require.Nil(t, measured.MetricsAddr())
	measured.Shutdown()

	allocations := testing.AllocsPerRun(100, func() {
		_, span := Span(t.Context(), "a part")
		End(span, nil)
	})
	require.Zero(t, allocations)
}

func TestStart_TellsOfEachVariableThatIsWrongWithoutItsValue(t *testing.T) {
	for name, value := range map[string]string{tracesExporter: "hunter2", metricsExporter: "prometheus", protocol: "grpc",
		tracesProtocol: "hunter2", samplerArg: "1.5"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			_, err := Start(t.Context(), Options{Logger: slog.New(slog.DiscardHandler), TracesPerSecond: 1})
			require.ErrorContains(t, err, "must be")
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestEnvironment_SaysWhatIsSentAndHowMuchOfIt(t *testing.T) {
	for _, c := range []struct {
		set  []string
		want outputs
	}{
		{nil, outputs{ratio: 1}},
		{[]string{endpoint, "http://h", samplerArg, "0.1"}, outputs{true, true, 0.1}},
		{[]string{tracesEndpoint, "http://h"}, outputs{true, false, 1}},
		{[]string{metricsEndpoint, "http://h"}, outputs{false, true, 1}},
		{[]string{endpoint, "http://h", tracesExporter, "none"}, outputs{false, true, 1}},
		{[]string{endpoint, "http://h", sampler, "parentbased_always_off"}, outputs{true, true, 0}},
		{[]string{endpoint, "http://h", sdkDisabled, "true"}, outputs{}},
	} {
		t.Run(fmt.Sprint(c.set), func(t *testing.T) {
			for i := 0; i < len(c.set); i += 2 {
				t.Setenv(c.set[i], c.set[i+1])
			}
			got, err := readEnvironment()
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestPublic_KeepsAClientsTraceAndNotItsWishToBeSampled(t *testing.T) {
	never, none := kept(t, 0, 100)
	seen := trace.SpanContext{}
	see := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = trace.SpanContextFromContext(r.Context())
	})
	ask(never.Public(see), "/", theirs)
	require.Empty(t, none.GetSpans())
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", seen.TraceID().String())
	require.False(t, seen.IsSampled())

	always, all := kept(t, 1, 100)
	ask(always.Public(see), "/", strings.TrimSuffix(theirs, "1")+"0")
	require.Len(t, all.GetSpans(), 1)
	require.Equal(t, "b7ad6b7169203331", all.GetSpans()[0].Parent.SpanID().String())
	require.True(t, seen.IsSampled())
}

func TestHop_TracesWhatTheFrontDoesAndNothingElseAndAtMostSoMuch(t *testing.T) {
	measured, spans := kept(t, 0, 2)
	hop := measured.Hop(nobody)
	ask(hop, "/", strings.TrimSuffix(theirs, "1")+"0")
	ask(hop, "/", "")
	require.Empty(t, spans.GetSpans())
	ask(hop, "/", strings.TrimSuffix(theirs, "1")+"3") // with the flag of a random id
	require.Len(t, spans.GetSpans(), 1)
	for range 100 {
		ask(hop, "/", theirs)
	}
	require.GreaterOrEqual(t, len(spans.GetSpans()), frontsShare*2)
	require.Less(t, len(spans.GetSpans()), 100)
}

func TestSampler_BeginsNoTraceOfWhatGoesOnInTheBackground(t *testing.T) {
	measured, spans := kept(t, 1, 100)
	_, span := measured.traces.Tracer(Scope).Start(t.Context(), "beat", trace.WithSpanKind(trace.SpanKindClient))
	span.End()
	ask(measured.Public(nobody), "/health", theirs)
	require.Empty(t, spans.GetSpans())
}

func TestHops_TellTheInstanceOfTheTraceAndUpstreamOnlyIfItIsTold(t *testing.T) {
	measured, _ := kept(t, 1, 100)
	var got string
	to := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Traceparent")
	}))
	defer to.Close()
	name := func(*http.Request) string { return "call" }
	for _, c := range []struct {
		of    http.RoundTripper
		tells bool
	}{{measured.Hops(http.DefaultTransport), true}, {measured.Upstream(http.DefaultTransport, true, name), true},
		{measured.Upstream(http.DefaultTransport, false, name), false}} {
		handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			call, err := http.NewRequestWithContext(r.Context(), http.MethodGet, to.URL, nil)
			require.NoError(t, err)
			response, err := c.of.RoundTrip(call)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
		})
		ask(measured.Public(handler), "/", theirs)
		require.Equal(t, c.tells, strings.HasPrefix(got, "00-0af7651916cd43dd8448eb211c80319c-"), got)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestSpans_LeaveWithoutSecrets(t *testing.T) {
	const token = "sk-ant-oat01-secretsecret"
	measured, spans := kept(t, 1, 100)
	ask(measured.Public(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, span := Span(r.Context(), "with "+token, trace.WithAttributes(attribute.String("a", "it is "+token)))
		span.RecordError(errors.New(token))
		End(span, errors.New("refused: "+token))
	})), "/", "")
	require.Len(t, spans.GetSpans(), 2)
	part := spans.GetSpans()[0]
	require.Equal(t, codes.Error, part.Status.Code)
	require.NotContains(t, fmt.Sprint(part.Name, part.Attributes, part.Events, part.Status), "secretsecret")
	require.NotContains(t, fmt.Sprint(spans.GetSpans()[1].Attributes), "192.0.2.1", "nor with who the client is")
}

// One byte that isn't UTF-8 would keep all from being sent that is sent together.
func TestSpans_LeaveAsUTF8(t *testing.T) {
	measured, spans := kept(t, 1, 100)
	ask(measured.Public(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, span := Span(r.Context(), "within")
		End(span, errors.New("no \xff"))
	})), "/%ff", "")
	require.Len(t, spans.GetSpans(), 2)
	for _, span := range spans.GetSpans() {
		require.True(t, utf8.ValidString(fmt.Sprint(span.Name, span.Attributes, span.Events, span.Status)), span.Name)
	}
}

// What a client may say beside a trace's id is bounded by nothing, and goes nowhere.
func TestPublic_TakesNoStateOfAClients(t *testing.T) {
	measured, spans := kept(t, 1, 100)
	var within trace.SpanContext
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Traceparent", theirs)
	r.Header.Set("Tracestate", "vendor=sk-ant-oat01-secretsecret")
	measured.Public(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		within = trace.SpanContextFromContext(r.Context())
	})).ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", within.TraceID().String())
	require.Zero(t, within.TraceState().Len())
	require.Len(t, spans.GetSpans(), 1)
	require.Zero(t, spans.GetSpans()[0].SpanContext.TraceState().Len())
}

func TestShutdown_WaitsForNoReceiverThatIsAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // which accepts and says nothing
	require.NoError(t, err)
	defer silent.Close()
	t.Setenv(endpoint, "http://"+silent.Addr().String())
	measured, err := Start(t.Context(), Options{Logger: slog.New(slog.DiscardHandler), Service: "s", TracesPerSecond: 10})
	require.NoError(t, err)
	ask(measured.Public(nobody), "/", "")
	began := time.Now()
	measured.Shutdown()
	require.Less(t, time.Since(began), 10*time.Second, "the exporter's own time is above that")
}
