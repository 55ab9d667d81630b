package prices_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/prices"
	"claudepool/infra/testkit/need"
	"claudepool/pool/pooltest"
)

func TestCost_IsWhatTheTableSays(t *testing.T) {
	t.Parallel()
	const million = 1_000_000
	for _, c := range []struct {
		call    prices.Call
		dollars float64
	}{
		{prices.Call{Model: "claude-opus-5-5", Input: million, Output: million, CacheRead: million, CacheWrite5m: million,
			CacheWrite1h: million}, 4 + 20 + 0.2 + 5 + 8},
		{prices.Call{Model: "claude-haiku-5-5", Input: 100_000, Output: 200_000}, 0.01 + 0.1},
		{prices.Call{Model: "claude-haiku-5-5", Input: 50_000, CacheRead: 50_001}, 0.025 + 0.00250005},
		{prices.Call{Model: "claude-haiku-4-5-20251001[1m]", WebSearches: 3, Output: million}, 0.03 + 5},
		{prices.Call{Model: "claude-opus-4-6", Fast: true, Input: million, WebSearches: 1}, 6*5 + 0.01},
		{prices.Call{Model: "claude-sonnet-5-5", Fast: true, Input: million}, 2},
		{prices.Call{Model: "who-knows", Input: million, Output: million, CacheRead: million, CacheWrite5m: million,
			CacheWrite1h: million}, 10 + 50 + 1 + 12.5 + 20},
	} {
		require.InDelta(t, c.dollars, float64(prices.Cost(c.call))/prices.Dollar, 1e-9, c.call.Model)
	}
}

func TestName_IsWithoutTheVersion(t *testing.T) {
	t.Parallel()
	for model, name := range map[string]string{"claude-haiku-5-5": "claude-haiku-5-5", "claude-opus-5": "claude-opus-5",
		"claude-haiku-4-5-20251001": "claude-haiku-4-5", "claude-sonnet-5-5[1m]": "claude-sonnet-5-5",
		"claude-opus-9": prices.Other, "": prices.Other, "claude-opus-5-5-5": prices.Other} {
		require.Equal(t, name, prices.Name(model), model)
	}
}

// cli is the real CLI in front of a stand-in for the API.
type cli struct {
	t     *testing.T
	stdin io.Writer
	lines *bufio.Reader
}

func start(t *testing.T) cli {
	t.Helper()
	bin, err := pooltest.RealCLI()
	need.Part(t, bin, err)
	api, err := pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(api.Close)
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), bin, "--print", "--input-format=stream-json", "--output-format=stream-json",
		"--verbose", "--model=haiku")
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "CLAUDE_CODE_TMPDIR=" + home, "PATH=" + os.Getenv("PATH"),
		"ANTHROPIC_BASE_URL=" + api.URL(), "CLAUDE_CODE_OAUTH_TOKEN=secret", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
		"DISABLE_AUTOUPDATER=1"}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
	})
	return cli{t, stdin, bufio.NewReaderSize(stdout, 1<<20)}
}

// say writes a line and returns the next one of the type.
func (c cli) say(line any, answer string) gjson.Result {
	c.t.Helper()
	text, err := json.Marshal(line)
	require.NoError(c.t, err)
	_, err = c.stdin.Write(append(text, '\n'))
	require.NoError(c.t, err)
	for {
		text, err := c.lines.ReadBytes('\n')
		require.NoError(c.t, err)
		if got := gjson.ParseBytes(text); got.Get("type").Str == answer {
			return got
		}
	}
}

type object map[string]any

func TestCost_IsWhatTheCLISays(t *testing.T) {
	t.Parallel()
	c := start(t)
	calls := []prices.Call{{Input: 1000, Output: 2000, CacheRead: 3000, CacheWrite5m: 4000, CacheWrite1h: 5000},
		{Input: 100_001, Output: 2000, CacheRead: 3000, CacheWrite5m: 4000, CacheWrite1h: 5000}}
	for _, model := range []string{"claude-haiku-5-5", "claude-haiku-4-5-20251001", "claude-sonnet-5-5", "claude-sonnet-5",
		"claude-sonnet-4-6", "claude-sonnet-4-5-20250929", "claude-opus-5-5", "claude-opus-5", "claude-opus-4-8",
		"claude-opus-4-7", "claude-opus-4-6", "claude-opus-4-5-20251101", "claude-fable-5-1", "claude-fable-5",
		"claude-mythos-5-1", "claude-mythos-5"} {
		done := c.say(object{"type": "control_request", "request_id": "model-" + model,
			"request": object{"subtype": "set_model", "model": model}}, "control_response")
		require.Equal(t, "success", done.Get("response.subtype").Str, done.Raw)
		for _, call := range calls {
			text := fmt.Sprintf("%s [[usage=%d %d %d %d %d]]", uuid.NewString(), call.Input, call.Output, call.CacheRead,
				call.CacheWrite5m, call.CacheWrite1h)
			result := c.say(object{"type": "user", "uuid": uuid.NewString(), "session_id": "", "parent_tool_use_id": nil,
				"message": object{"role": "user", "content": text}}, "result")
			used := result.Get("model_usage_since_last_result").Map()
			require.Len(t, used, 1, result.Raw)
			for name, of := range used {
				require.NotEqual(t, prices.Other, prices.Name(model), model)
				require.Equal(t, prices.Name(model), prices.Name(name))
				call.Model = name
				require.InDelta(t, of.Get("costUSD").Float(), float64(prices.Cost(call))/prices.Dollar, 1e-9, model)
			}
		}
	}
}
