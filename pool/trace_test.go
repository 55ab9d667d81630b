package pool_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"claudepool/pool/api"
)

func TestTrace_TellsOfTheGateOfAParkedProcess(t *testing.T) {
	t.Parallel()
	s := newParking(t)
	s.parked("")
	spans := tracetest.NewSpanRecorder()
	traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	ctx, span := traces.Tracer("").Start(t.Context(), "request")
	req, err := api.Decode(fmt.Appendf(nil, `{"oauth_credentials":{"access_token":"sk-ant-oat01-ada"},"session_id":%q,`+
		`"messages":[{"role":"user","content":"one"}]}`, uuid.NewString()))
	require.NoError(t, err)
	h, err := s.pool.Acquire(ctx, req, false)
	require.NoError(t, err)
	h.Release()
	var names []string
	for _, part := range spans.Ended() {
		require.Equal(t, span.SpanContext().SpanID(), part.Parent().SpanID())
		names = append(names, part.Name())
	}
	require.Equal(t, []string{"claim standby", "claim parked", "gate", "fit"}, names)
}
