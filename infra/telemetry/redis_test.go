package telemetry

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
)

func TestRedis_CommandsAreTimedByNameAlone(t *testing.T) {
	measured, err := Start(t.Context(), Options{Logger: slog.New(slog.DiscardHandler), Service: "s",
		MetricsAddr: "127.0.0.1:0", TracesPerSecond: 1})
	require.NoError(t, err)
	defer measured.Shutdown()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer client.Close()
	require.NoError(t, measured.Redis(client))
	require.Error(t, client.Get(t.Context(), "user:secret").Err())
	text := get(t, "http://"+measured.MetricsAddr().String()+"/metrics")
	require.Contains(t, text, `db_client_operation_duration_seconds_count{db_operation_name="get",`+
		`db_system_name="redis",error_type="connection"} 1`)
	require.NotContains(t, text, "secret")
}

func TestRedis_CommandsAreTracedWhereTheRequestIs(t *testing.T) {
	measured, spans := kept(t, 1, 100)
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer client.Close()
	require.NoError(t, measured.Redis(client))
	require.Error(t, client.Get(t.Context(), "user:secret").Err())
	require.Empty(t, spans.GetSpans())
	ask(measured.Public(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.Error(t, client.Get(r.Context(), "user:secret").Err())
	})), "/", "")
	require.Len(t, spans.GetSpans(), 2)
	command, request := spans.GetSpans()[0], spans.GetSpans()[1]
	require.Equal(t, "get", command.Name)
	require.Equal(t, request.SpanContext.SpanID(), command.Parent.SpanID())
	require.Equal(t, codes.Error, command.Status.Code)
	require.NotContains(t, fmt.Sprint(command.Attributes), "secret")
}
