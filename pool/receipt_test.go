package pool_test

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool"
)

// receipt is what stands before the answer's end mark.
func (r reply) receipt() gjson.Result {
	_, receipt, _ := strings.Cut(r.body, ": receipt ")
	line, _, _ := strings.Cut(receipt, "\n")
	return gjson.Parse(line)
}

// What a CLI says of tokens and money are running totals, which go on in a process that resumes. A receipt has the
// turn's alone.
func TestReceipt_HasWhatThisTurnTookAlone(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	second := s.ask("ada", "two", nil)
	tool := s.ask("ada", `[[tool=Bash {"command":"true"}]]`, nil)
	signalProcess(t, tool.pid, syscall.SIGTERM) // at which it writes its totals down
	s.awaitNoProcess()
	resumed := s.ask("ada", "three", nil)
	require.Equal(t, pool.ProcessResumed, resumed.process)
	for name, r := range map[string]reply{"first": first, "second": second, "resumed": resumed} {
		receipt := r.receipt()
		require.EqualValues(t, 1, receipt.Get("api_calls").Int(), name)
		require.EqualValues(t, 10, receipt.Get("usage.input_tokens").Int(), name)
		require.EqualValues(t, 5, receipt.Get("usage.output_tokens").Int(), name)
		require.Equal(t, first.receipt().Get("cost_usd").Num, receipt.Get("cost_usd").Num, name)
	}
	require.Positive(t, first.receipt().Get("cost_usd").Num)
	require.Greater(t, resumed.of("result")[0].Get("total_cost_usd").Num, 2*resumed.receipt().Get("cost_usd").Num,
		"the CLI's own is a total")
	require.EqualValues(t, 2, tool.receipt().Get("api_calls").Int())
	require.EqualValues(t, 20, tool.receipt().Get("usage.input_tokens").Int())
	require.Equal(t, []string{"none", "kept", "kept", "resumed"}, []string{first.receipt().Get("context").Str,
		second.receipt().Get("context").Str, tool.receipt().Get("context").Str, resumed.receipt().Get("context").Str})
}

// Before anything is done for a large request of somebody unknown, the API says what it thinks of the credential.
func TestAdmission_ALargeRequestOfAStrangerIsProvenFirst(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	s.judge(http.StatusUnauthorized, "eve")
	large := strings.Repeat("x", 300<<10)
	r := s.ask("eve", large, nil)
	require.Equal(t, http.StatusUnauthorized, r.status, r.body)
	require.Zero(t, s.started())
	require.Equal(t, "reply to: "+large, s.ask("ada", large, nil).text(t))
	require.Len(t, s.api.Counts(), 2)
}

func (s *service) awaitNoProcess() {
	s.t.Helper()
	require.Eventually(s.t, func() bool { reserved, _ := s.pool.Load(); return reserved == 0 }, 10*time.Second,
		5*time.Millisecond)
}
