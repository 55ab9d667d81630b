package pool_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

// allowing lets CLIs use a tool.
func allowing(t testing.TB, tool string) func(*pool.Options) {
	return func(o *pool.Options) { o.ClaudeBin = wrapped(t, o.ClaudeBin, "", "--allowedTools="+tool) }
}

// sleepers are the pids of processes whose command line is a sleep of this length.
func sleepers(t *testing.T, length string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var pids []string
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && string(line) == "sleep\x00"+length+"\x00" {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

func TestPool_WhatAnIdleProcessStartedGoesWithIt(t *testing.T) {
	t.Parallel()
	const timeout = 3 * time.Second
	s := newService(t, func(o *pool.Options) {
		o.IdleTimeout = timeout
		allowing(t, "Bash")(o)
	})
	// A length that no other run of this test has.
	length := strconv.Itoa(100_000_000 + os.Getpid())
	commands := []string{
		"setsid sleep " + length + " >/dev/null 2>&1 & echo started",
		"nohup sleep " + length + " >/dev/null 2>&1 & echo started",
		"( ( setsid sleep " + length + " & ) & ) >/dev/null 2>&1; echo started",
	}
	var last reply
	for _, command := range commands {
		last = s.ask("ada", `[[tool=Bash {"command":"`+command+`"}]]`, nil)
		require.Contains(t, last.text(t), "started")
	}
	require.Eventually(t, func() bool { return len(sleepers(t, length)) == len(commands) }, 30*time.Second,
		10*time.Millisecond)

	long := s.ask("ada", "long [[words=35]][[delay=100ms]]", nil)
	long.text(t)
	require.Equal(t, last.pid, long.pid, "a turn longer than the timeout is untouched")
	require.Len(t, sleepers(t, length), len(commands), "and so is what its process started")

	ended := time.Now()
	require.Eventually(t, func() bool { return !exists(long.pid) && len(sleepers(t, length)) == 0 }, 30*time.Second,
		20*time.Millisecond)
	t.Logf("gone %v after the deadline", time.Since(ended)-timeout)
	require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == 1 }, 30*time.Second, 10*time.Millisecond)
	require.EqualValues(t, 1, s.pool.Snapshot().Cleanup.Total)
	require.Empty(t, s.pool.Snapshot().Users)
	require.Regexp(t, regexp.MustCompile(`Cleanup idle process user=[0-9a-f]{8} idle=[3-5]\.\ds`), s.logs.String())
}

// resident is the memory of a process as the pool counts it, in bytes.
func resident(t *testing.T, pid string) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	require.NoError(t, err)
	var total int64
	for _, line := range strings.Split(string(status), "\n") {
		if f := strings.Fields(line); len(f) == 3 && (f[0] == "RssAnon:" || f[0] == "RssShmem:") {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			require.NoError(t, err)
			total += kib << 10
		}
	}
	require.NotZero(t, total)
	return total
}

func TestPool_AProcessOverItsMemoryIsReplacedBetweenTurns(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	first.text(t)
	s.pool.CheckMemory(2 * resident(t, first.pid))
	require.Equal(t, first.pid, s.ask("ada", "two", nil).pid)

	s.pool.CheckMemory(resident(t, first.pid) * 3 / 4)
	require.Eventually(t, func() bool { return !exists(first.pid) }, 30*time.Second, 10*time.Millisecond,
		"an idle one goes at once")
	second := s.ask("ada", "three", nil)
	second.text(t)
	require.Equal(t, "resumed", second.process)
	require.Len(t, s.lastCall().Messages(), 5)

	turn := make(chan reply)
	before := len(s.api.Calls())
	go func() { turn <- s.ask("ada", "four [[words=15]][[delay=100ms]]", nil) }()
	s.awaitCall(before)
	s.pool.CheckMemory(resident(t, second.pid) * 3 / 4)
	busy := <-turn
	busy.text(t)
	require.Equal(t, second.pid, busy.pid, "a busy one ends its turn")
	third := s.ask("ada", "five", nil)
	third.text(t)
	require.Equal(t, "resumed", third.process)
	require.Len(t, s.lastCall().Messages(), 9)
}

func TestPool_AProcessFarOverItsMemoryIsKilledInItsTurn(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	first.text(t)
	before := len(s.api.Calls())
	response, err := s.start(t.Context(), "ada", "large [[words=500]][[delay=100ms]]", nil)
	require.NoError(t, err)
	s.awaitCall(before)
	s.pool.CheckMemory(resident(t, first.pid) / 4)
	r := read(response)
	require.Len(t, r.of("error"), 1, r.body)
	require.Contains(t, r.of("error")[0].Get("error.message").Str, "more memory than a process may")
	require.True(t, r.done)
	require.Eventually(t, func() bool { return !exists(first.pid) }, 30*time.Second, 10*time.Millisecond)
	second := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", second.text(t))
	require.Equal(t, "resumed", second.process)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

func TestPool_AWorkspaceIsKeptForItsTimeAndNoLonger(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.IdleTimeout, o.WorkspaceTTL = 5*time.Minute, time.Hour })
	s.ask("ada", "one", nil).text(t)
	workspace := home(t, s)
	idle := func(d time.Duration) { s.pool.CleanUp(time.Now().Add(d)) }
	reaped := func(times int64) {
		t.Helper()
		require.Eventually(t, func() bool { // the last turn's conversation may still be held
			idle(6 * time.Minute)
			return s.pool.Snapshot().Cleanup.Total == times
		}, time.Minute, time.Millisecond)
		require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == int(times) }, time.Minute,
			time.Millisecond)
	}
	reaped(1)
	require.DirExists(t, workspace)
	two := s.ask("ada", "two", nil)
	require.Equal(t, pool.ProcessResumed, two.process)
	require.Len(t, s.lastCall().Messages(), 3)

	reaped(2)
	idle(59 * time.Minute)
	require.DirExists(t, workspace)
	idle(61 * time.Minute)
	require.Eventually(t, func() bool { _, err := os.Stat(workspace); return os.IsNotExist(err) }, time.Minute,
		time.Millisecond)
	entries, err := filepath.Glob(filepath.Join(s.root, "*", "*-*-*-*-*"))
	require.NoError(t, err)
	require.Empty(t, entries, "nor is it in the index")
	require.Zero(t, s.pool.Conversations())
	three := s.ask("ada", "three", nil)
	require.Equal(t, "reply to: three", three.text(t))
	require.Equal(t, pool.ProcessCold, three.process)
	require.Equal(t, []string{"user: three"}, s.lastCall().Messages())
}
