package gosdk_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/anthropics/anthropic-sdk-go/v2/toolrunner"
	"github.com/stretchr/testify/require"
)

// place is what the tools take.
type place struct {
	Of string `json:"of" jsonschema:"required"`
}

// runs is a tool that counts its runs.
func runs(t *testing.T, name string, count *atomic.Int64) anthropic.BetaTool {
	t.Helper()
	tool, err := toolrunner.NewBetaToolFromJSONSchema(name, "tells of a place",
		func(_ context.Context, p place) (anthropic.BetaToolResultBlockParamContentUnion, error) {
			count.Add(1)
			return anthropic.BetaToolResultBlockParamContentUnion{
				OfText: &anthropic.BetaTextBlockParam{Text: name + " of " + p.Of}}, nil
		})
	require.NoError(t, err)
	return tool
}

// A task of three calls, two of them at once, is one turn of one process; the runner asks for threads first.
func TestToolRunner_RunsATaskWithinOneTurn(t *testing.T) {
	u := newUser(t, "runner")
	var weather, clock atomic.Int64
	task := `go runner [[1:tool=mcp__client__weather {"of":"Rome"}` + "\n" +
		`mcp__client__clock {"of":"Oslo"}]][[2:tool=mcp__client__weather {"of":"Bern"}]]`
	processes := make(map[string]bool)
	u.client.Options = append(u.client.Options, option.WithMiddleware(
		func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			answer, err := next(r)
			if pid := answer.Header.Get("X-Claudepool-Pid"); pid != "" {
				processes[pid] = true
			}
			return answer, err
		}))
	client := anthropic.NewClient(u.client.Options...)
	runner := client.Beta.Messages.NewToolRunner(
		[]anthropic.BetaTool{runs(t, "weather", &weather), runs(t, "clock", &clock)},
		anthropic.BetaToolRunnerParams{BetaMessageNewParams: anthropic.BetaMessageNewParams{Model: model, MaxTokens: 100,
			Messages: []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock(task))}}})
	message, err := runner.RunToCompletion(t.Context())
	require.NoError(t, err)
	require.Equal(t, anthropic.BetaStopReasonEndTurn, message.StopReason)
	require.Equal(t, "tool said: weather of Bern", message.Content[0].Text)
	require.EqualValues(t, 2, weather.Load())
	require.EqualValues(t, 1, clock.Load())
	require.Equal(t, 3, runner.IterationCount())
	for _, made := range calls(t, "go runner") {
		require.Len(t, made.Messages, 1, "one turn")
	}
	require.Len(t, processes, 1)
}
