package contract

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	plainJSON = "application/json"
	turn      = `{"api_key":"sk-ant-api03-secret","messages":[{"role":"user","content":"hi"}]}`
	refused   = `{"type":"error","error":{"type":"api_error","message":"no"}}`
)

// headers are those of an error.
var headers = map[string]string{"Request-Id": "r", "X-Request-Id": "r", "X-Should-Retry": "false"}

// without are headers without that one, with more given as a name and a value.
func without(name string, more ...string) map[string]string {
	all := make(map[string]string)
	for n, v := range headers {
		if n != name {
			all[n] = v
		}
	}
	if len(more) > 0 {
		all[more[0]] = more[1]
	}
	return all
}

func TestTransport_FindsWhatIsNotAsDescribed(t *testing.T) {
	const pooled = "/v1/messages/pooled"
	transport, err := New(http.DefaultTransport)
	require.NoError(t, err)
	for _, c := range []struct {
		name, method, path, sent string
		status                   int
		kind, body               string
		headers                  map[string]string
		violation                string // part of it; empty: none
	}{
		{"good", "GET", "/health", "", 200, plainJSON, `{"status":"ok"}`, nil, ""},
		{"another server's", "GET", "/elsewhere", "", 200, "text/plain", "hi", nil, ""},
		{"another value", "GET", "/health", "", 200, plainJSON, `{"status":"fine"}`, nil, "status"},
		{"a field too many", "GET", "/health", "", 200, plainJSON, `{"status":"ok","a":1}`, nil, "additional"},
		{"no JSON", "GET", "/health", "", 200, plainJSON, `ok`, nil, "decode"},
		{"another content type", "GET", "/health", "", 200, "text/plain", "ok", nil, "Content-Type"},
		{"another status", "GET", "/health", "", 418, plainJSON, refused, headers, "status is not supported"},
		{"another header", "GET", "/health", "", 200, plainJSON, `{"status":"ok"}`, without("", "X-Claudepool-A", "1"),
			"not described"},
		{"an error", "POST", pooled, turn, 503, plainJSON, refused, headers, ""},
		{"an error without id", "POST", pooled, turn, 503, plainJSON, refused, without("Request-Id"), "request-id"},
		{"an error of another shape", "POST", pooled, turn, 503, plainJSON, `{"error":"no"}`, headers, "error"},
		{"a header's value", "POST", pooled, turn, 503, plainJSON, refused, without("", "Retry-After", "soon"),
			"retry-after"},
		{"another method", "PUT", pooled, turn, 405, plainJSON, refused, headers, ""},
		{"another method that is served", "PUT", pooled, turn, 200, plainJSON, `{}`, headers, "no such method"},
		{"a stream", "POST", pooled, turn, 200, "text/event-stream", "data: {\"type\":\"a\"}\n\ndata: [DONE]\n\n",
			headers, ""},
		{"an event", "POST", pooled, turn, 200, "text/event-stream", "data: {\"type\":1}\n\n", headers, "type"},
		{"an event cut", "POST", pooled, turn, 200, "text/event-stream", "data: {\"type\n\n", headers, "invalid character"},
		{"an event cut, and told", "POST", pooled, turn, 200, "text/event-stream", "data: {\"a\n\ndata: " + refused + "\n\n",
			headers, ""},
		{"a receipt", "POST", pooled, turn, 200, "text/event-stream", ": receipt {}\ndata: [DONE]\n\n", headers, "missing"},
		{"what was asked", "POST", pooled, `{}`, 200, "text/event-stream", "data: [DONE]\n\n", headers, "accepted"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for name, value := range c.headers {
				w.Header().Set(name, value)
			}
			w.Header().Set("Content-Type", c.kind)
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		before := len(transport.Violations())
		r, err := http.NewRequest(c.method, server.URL+c.path, strings.NewReader(c.sent))
		require.NoError(t, err)
		r.Header.Set("Content-Type", plainJSON)
		answer, err := (&http.Client{Transport: transport}).Do(r)
		require.NoError(t, err)
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, c.body, string(text), c.name)
		require.NoError(t, answer.Body.Close())
		server.Close()
		found := transport.Violations()[before:]
		if c.violation == "" {
			require.Empty(t, found, c.name)
			continue
		}
		require.Len(t, found, 1, c.name)
		require.Contains(t, found[0], c.violation, c.name)
	}
}
