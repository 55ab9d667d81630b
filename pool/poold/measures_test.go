package poold

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/settings"
	"claudepool/infra/telemetry"
	"claudepool/pool"
	"claudepool/pool/api"
	"claudepool/pool/server"
	"claudepool/router"
)

// measuring is a Telemetry, and what it tells.
func measuring(t *testing.T) (measured *telemetry.Telemetry, told func() string) {
	t.Helper()
	measured, err := telemetry.Start(t.Context(), telemetry.Options{Logger: slog.New(slog.DiscardHandler),
		Service: "s", MetricsAddr: "127.0.0.1:0", TracesPerSecond: 1})
	require.NoError(t, err)
	t.Cleanup(measured.Shutdown)
	return measured, func() string {
		response, err := http.Get("http://" + measured.MetricsAddr().String() + "/metrics")
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return string(text)
	}
}

// scripted is a backend whose turns write lines and end as they are told.
type scripted struct {
	server.Backend
	refusal error
	first   time.Duration
	isError bool
	end     error
}

func (s scripted) acquire(context.Context, *api.Request, bool) (turn, error) {
	return scriptedTurn{of: s}, s.refusal
}

type scriptedTurn struct {
	server.Turn
	of scripted
}

func (s scriptedTurn) Run(context.Context, func(), func(context.Context, [][]byte) error) error {
	return s.of.end
}

func (s scriptedTurn) FirstToken() time.Duration { return s.of.first }

func (s scriptedTurn) IsError() bool { return s.of.isError }

func (scriptedTurn) Receipt() api.Receipt { return api.Receipt{Process: "reused", Context: "kept"} }

func TestMeasures_TellHowTurnsEnd(t *testing.T) {
	measured, told := measuring(t)
	m, err := newMeasures(measured)
	require.NoError(t, err)
	gone, leave := context.WithCancel(t.Context())
	leave()
	req := &api.Request{Model: "made up by a stranger", OAuth: &api.OAuthCredentials{AccessToken: "sk-ant-oat01-x"}}
	for _, c := range []struct {
		ctx context.Context
		of  scripted
	}{
		{t.Context(), scripted{first: time.Millisecond}},
		{t.Context(), scripted{isError: true}},
		{t.Context(), scripted{end: errors.New("died")}},
		{gone, scripted{first: time.Second, end: context.Canceled}},
		{t.Context(), scripted{refusal: errors.New("no room")}},
		{t.Context(), scripted{refusal: api.Invalid("no such thing")}},
		{t.Context(), scripted{end: api.Spent("code", "the budget is spent")}},
		{t.Context(), scripted{refusal: router.ErrNotOwner}}, // which is no turn
		{t.Context(), scripted{refusal: pool.ErrDraining}},
		{gone, scripted{refusal: context.Canceled}},
	} {
		turn, err := m.backend(c.of, "i").Acquire(c.ctx, req, false)
		require.Equal(t, c.of.refusal, err)
		if err == nil {
			require.Equal(t, c.of.end, turn.Run(c.ctx, func() {},
				func(context.Context, [][]byte) error { return nil }))
		}
	}
	text := told()
	for _, outcome := range []string{"good", "error", "failed", "refused", "abandoned"} {
		require.Contains(t, text, `claudepool_turns_total{context="kept",outcome="`+outcome+`",process="reused"} 1`)
	}
	for _, outcome := range []string{"unserved", "refused", "abandoned"} {
		require.Contains(t, text, `claudepool_turns_total{context="none",outcome="`+outcome+`",process="none"} 1`)
	}
	require.Contains(t, text, `claudepool_first_tokens_total{within="1s"} 2`)
	require.Contains(t, text, `gen_ai_server_request_duration_seconds_count{gen_ai_operation_name="chat",`+
		`gen_ai_provider_name="anthropic",gen_ai_request_model="other",process="reused"} 5`)
	require.NotContains(t, text, "stranger")
}

func TestMeasures_WithoutTelemetryThereAreNone(t *testing.T) {
	m, err := newMeasures(nil)
	require.NoError(t, err)
	require.Nil(t, m)
	require.Equal(t, scripted{}, m.backend(scripted{}, "i"))
	require.Nil(t, m.calls(true))
	require.NoError(t, m.observe(nil))
}

func TestPorts_ProcessesMayNotConnectToThoseOfTheMetrics(t *testing.T) {
	measured, _ := measuring(t)
	port := uint16(measured.MetricsAddr().(*net.TCPAddr).Port)
	i := &Instance{measured: measured, settings: settings.Pool{ConnectPorts: []uint16{443, port}}}
	require.ErrorContains(t, i.checkPorts(), "CONNECT_PORTS")
	i.settings.ConnectPorts = i.settings.ConnectPorts[:1]
	require.NoError(t, i.checkPorts())
	require.Equal(t, measured.MetricsAddr().String(), i.metricsAddr())
}
