package telemetry

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// answering are handlers at a route that answer with a status.
func answering(status int) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/{what}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	return mux
}

func TestPublic_ItsSpanTellsTheRouteAndHowTheRequestWasAnswered(t *testing.T) {
	for status, want := range map[int]codes.Code{http.StatusOK: codes.Unset, http.StatusNotFound: codes.Unset,
		http.StatusBadGateway: codes.Error} {
		measured, spans := kept(t, 1, 100)
		ask(measured.Public(answering(status)), "/v1/a", "")
		require.Len(t, spans.GetSpans(), 1)
		span := spans.GetSpans()[0]
		require.Equal(t, "GET /v1/{what}", span.Name)
		require.Equal(t, trace.SpanKindServer, span.SpanKind)
		require.Equal(t, want, span.Status.Code)
		require.ElementsMatch(t, []attribute.KeyValue{semconv.HTTPRequestMethodGet, semconv.HTTPResponseStatusCode(status),
			semconv.HTTPRoute("/v1/{what}"), semconv.URLPath("/v1/a")}, span.Attributes)
	}
}

func TestPublic_TimesByWhatClientsCannotMakeUp(t *testing.T) {
	measured, err := Start(t.Context(), Options{Logger: slog.New(slog.DiscardHandler), Service: "s",
		MetricsAddr: "127.0.0.1:0", TracesPerSecond: 1})
	require.NoError(t, err)
	defer measured.Shutdown()
	public := measured.Public(answering(http.StatusTeapot))
	for _, method := range []string{http.MethodPost, "MADE", "UP"} {
		public.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "/v1/a", nil))
	}
	text := get(t, "http://"+measured.MetricsAddr().String()+"/metrics")
	for method, n := range map[string]string{"POST": "1", "_OTHER": "2"} {
		require.Contains(t, text, `http_server_request_duration_seconds_count{http_request_method="`+method+
			`",http_response_status_code="418",http_route="/v1/{what}"} `+n)
	}
}

func TestPublic_WhatIsBehindItReachesTheConnection(t *testing.T) {
	measured, spans := kept(t, 1, 100)
	served := httptest.NewServer(measured.Public(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		if err := http.NewResponseController(w).Flush(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})))
	response, err := http.Get(served.URL)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	served.Close() // waits for the request's end
	require.Contains(t, spans.GetSpans()[0].Attributes, semconv.HTTPResponseStatusCode(http.StatusOK))
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// roundTrip is a transport in the form of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var errCut = errors.New("cut")

func TestHops_TheirSpansEndWithTheAnswer(t *testing.T) {
	read := func(b io.ReadCloser) { _, _ = io.Copy(io.Discard, b) }
	for name, c := range map[string]struct {
		status int
		body   io.Reader
		fails  bool
		end    func(io.ReadCloser)
		want   codes.Code
	}{
		"read":    {status: 200, body: strings.NewReader("x"), end: read},
		"closed":  {status: 200, body: strings.NewReader("x"), end: func(b io.ReadCloser) { _ = b.Close() }},
		"cut":     {status: 200, body: io.MultiReader(strings.NewReader("x"), cut{}), end: read, want: codes.Error},
		"refused": {status: 503, body: strings.NewReader(""), end: read, want: codes.Error},
		"failed":  {fails: true, want: codes.Error},
	} {
		t.Run(name, func(t *testing.T) {
			measured, spans := kept(t, 1, 100)
			hops := measured.Hops(roundTrip(func(*http.Request) (*http.Response, error) {
				if c.fails {
					return nil, errCut
				}
				return &http.Response{StatusCode: c.status, Body: io.NopCloser(c.body)}, nil
			}))
			ask(measured.Public(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				call := httptest.NewRequest(http.MethodPost, "http://h/", nil).WithContext(r.Context())
				response, err := hops.RoundTrip(call)
				require.Equal(t, c.fails, err != nil)
				require.Empty(t, call.Header, "it is the caller's")
				if err == nil {
					require.Empty(t, spans.GetSpans())
					c.end(response.Body)
				}
				require.Len(t, spans.GetSpans(), 1)
				require.Equal(t, c.want, spans.GetSpans()[0].Status.Code)
			})), "/", "")
		})
	}
}

type cut struct{}

func (cut) Read([]byte) (int, error) { return 0, errCut }
