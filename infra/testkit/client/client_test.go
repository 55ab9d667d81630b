package client_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
)

const (
	delta   = `data: {"type":"stream_event","event":{"delta":{"type":"text_delta","text":"hi"}}}` + "\n\n"
	result  = `data: {"type":"result","is_error":false,"result":"hi"}` + "\n\n"
	receipt = `: receipt {"process":"standby","pid":7,"instance":"i1"}` + "\n"
)

// front answers every request alike.
func front(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &client.Client{URL: server.URL, HTTP: server.Client()}
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

func TestAsk_TellsHowTheTurnWasServed(t *testing.T) {
	c := front(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked := r.URL.Path == api.PathMessages && strings.Contains(string(body), `"say \"hi\""`)
		if !asked || r.Header.Get("Content-Type") != "application/json" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		time.Sleep(20 * time.Millisecond)
		says(": ping\n\n"+delta)(w, r)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(20 * time.Millisecond)
		says(result+receipt+api.Done)(w, r)
	})
	a, err := c.Ask(t.Context(), "sk-ant-oat01-ada", `say "hi"`)
	require.NoError(t, err)
	require.GreaterOrEqual(t, a.FirstToken, 20*time.Millisecond)
	require.GreaterOrEqual(t, a.Total, a.FirstToken+15*time.Millisecond)
	a.FirstToken, a.Total = 0, 0
	require.Equal(t, client.Answer{Text: "hi", Process: "standby", PID: 7, Instance: "i1"}, a)
}

func TestAsk_TellsWhatWentWrong(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		want   error
	}{
		"no mark":            {result + receipt, client.ErrBroken},
		"nothing":            {"", client.ErrBroken},
		"only the mark":      {api.Done, client.ErrNoResult},
		"an error event":     {delta + `data: {"type":"error","error":{}}` + "\n\n" + api.Done, client.ErrStream},
		"a result that is":   {`data: {"type":"result","is_error":true,"result":"no"}` + "\n\n" + api.Done, client.ErrFailed},
		"broken in an event": {"id: t.1\ndata: {", client.ErrBroken},
	} {
		_, err := front(t, says(c.stream)).Ask(t.Context(), "ada", "hi")
		require.ErrorIs(t, err, c.want, name)
	}
}

func TestAsk_ARefusalHasItsStatusAndDetail(t *testing.T) {
	c := front(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		api.WriteError(w, "", &api.Error{Status: http.StatusPaymentRequired, Type: "billing_error", Message: "no money"})
	})
	_, err := c.Ask(t.Context(), "ada", "hi")
	var refusal *client.Refusal
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusPaymentRequired, refusal.Status)
	require.Equal(t, "7", refusal.Header.Get("Retry-After"))
	require.Contains(t, refusal.Detail, "no money")
	require.ErrorContains(t, err, "402 Payment Required")
	require.False(t, c.Healthy(t.Context()))
	_, err = c.Stats(t.Context())
	require.ErrorAs(t, err, &refusal)
}

func TestStream_HasIDsOfEventsAndAsksForWhatFollowsOne(t *testing.T) {
	c := front(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != api.PathResume {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		says("id: t."+strings.TrimPrefix(r.Header.Get(api.HeaderLastEvent), "t.")+"1\n"+delta+result+"id: t.13\n")(w, r)
	})
	s, err := c.Resume(t.Context(), client.Credentials("ada"), "t.1")
	require.NoError(t, err)
	defer s.Close()
	require.True(t, s.Next())
	require.Equal(t, "t.11", s.Event().ID)
	require.Equal(t, "stream_event", s.Event().Type())
	require.True(t, s.Next())
	require.Equal(t, client.Event{Data: []byte(strings.TrimSpace(strings.TrimPrefix(result, "data: ")))}, s.Event())
	require.False(t, s.Next())
	require.Equal(t, "t.13", s.Event().ID, "whose event was cut")
	require.ErrorIs(t, s.Err(), client.ErrBroken)
}

// What is not read to its end can't be used again.
func TestClient_UsesItsConnectionAgain(t *testing.T) {
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		says(result+api.Done)(w, r)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(20 * time.Millisecond) // so that the end of the body comes after the mark
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	c := &client.Client{URL: server.URL, HTTP: server.Client()}
	for range 3 {
		_, err := c.Ask(t.Context(), "ada", "hi")
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, connections.Load())
}
