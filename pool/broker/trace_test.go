package broker

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// toldOf is what a transport that measures gets to know of a call.
type toldOf struct {
	model, traceparent string
	isRetry            bool
	span               trace.SpanID
}

type teller struct {
	to   http.RoundTripper
	told []toldOf
}

func (o *teller) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := o.to.RoundTrip(r)
	o.told = append(o.told, toldOf{ModelOf(r.Context()), r.Header.Get("Traceparent"), IsRetry(r.Context()),
		trace.SpanContextFromContext(r.Context()).SpanID()})
	return response, err
}

func TestBroker_TellsWhoMeasuresOfACallsModelItsTurnAndWhetherItIsARetry(t *testing.T) {
	left := []int{http.StatusOK, 529, http.StatusTooManyRequests, http.StatusOK, 529, http.StatusOK}

	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(left[0])
		left = left[1:]
	}))
	defer api.Close()
	upstream, err := url.Parse(api.URL)
	require.NoError(t, err)
	measure := &teller{}
	b := New(Options{Upstream: upstream, Logger: slog.New(slog.DiscardHandler),
		Measure: func(to http.RoundTripper) http.RoundTripper { measure.to = to; return measure }})
	defer b.Close()
	g := bound(t, b, "token")
	ask := func() {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL()+pathMessages,
			strings.NewReader(`{"messages":[{"model":"no"}],"model":"claude-x","stream":true}`))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+g.Secret())
		r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") // a process's own
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		response.Body.Close()
	}
	traces := sdktrace.NewTracerProvider()
	ctx, span := traces.Tracer("").Start(t.Context(), "turn", trace.WithAttributes(attribute.Bool("a", true)))
	ask()
	end := g.BeginTurn(ctx)
	for range 4 {
		ask()
	}
	end()
	g.BeginTurn(t.Context())() // whose call is none after a failed one
	ask()
	of := span.SpanContext().SpanID()
	require.Equal(t, []toldOf{{"claude-x", "", false, trace.SpanID{}}, {"claude-x", "", false, of},
		{"claude-x", "", true, of}, {"claude-x", "", true, of}, {"claude-x", "", false, of},
		{"claude-x", "", false, trace.SpanID{}}}, measure.told)
	require.Empty(t, left)
}

func TestListen_GivesNobodyThePortThatIsToBeAvoided(t *testing.T) {
	open := func() (net.Listener, error) { return listen(production) }
	first, err := open()
	require.NoError(t, err)
	avoid := uint16(first.Addr().(*net.TCPAddr).Port)
	given := []net.Listener{first}
	got, err := listenBut(avoid, func() (net.Listener, error) {
		if len(given) > 0 {
			given = nil
			return first, nil
		}
		return open()
	})
	require.NoError(t, err)
	defer got.Close()
	require.NotEqual(t, first.Addr(), got.Addr())
	_, err = first.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}
