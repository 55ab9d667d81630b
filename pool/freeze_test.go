package pool_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool"
)

// state is a process's state as the kernel has it: S sleeps, T is stopped.
func state(t *testing.T, pid string) string {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(stat), ") ")
	return after[:1]
}

func awaitState(t *testing.T, pid, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return state(t, pid) == want }, 30*time.Second, 10*time.Millisecond)
}

func TestFreeze_AnIdleProcessIsStoppedAndGoesOnWithTheNextRequest(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *pool.Options) { o.Standby, o.FreezeAfter = 1, 3*time.Second })
	s.awaitStandbys(1)
	require.Eventually(t, func() bool { return len(s.processes()) == 1 }, 30*time.Second, 5*time.Millisecond)
	standby := s.processes()
	awaitState(t, standby[0], "T")
	first := s.ask("ada", "one", nil)
	require.Equal(t, "reply to: one", first.text(t))
	require.Equal(t, standby[0], first.pid)
	awaitState(t, first.pid, "T")
	second := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", second.text(t))
	require.Equal(t, first.pid, second.pid)
	awaitState(t, first.pid, "T")
	s.pool.Evict(s.pool.Users()[0])
	require.Eventually(t, func() bool { return len(s.pool.Users()) == 0 }, 30*time.Second, 10*time.Millisecond,
		"a frozen process can be ended")
}

func TestReceipt_TellsHowARequestWasServed(t *testing.T) {
	s := newScriptedService(t, nil)
	for _, want := range []string{pool.ProcessCold, pool.ProcessReused} {
		r := s.ask("ada", "hello", nil)
		_, receipt, ok := strings.Cut(r.body, ": receipt ")
		require.True(t, ok, r.body)
		require.Equal(t, want, gjson.Get(receipt, "process").Str)
		require.Equal(t, r.pid, gjson.Get(receipt, "pid").Raw)
	}
}
