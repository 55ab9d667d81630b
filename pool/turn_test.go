package pool_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

func TestPool_ASecondRequestFindsTheProcessAndTheConversation(t *testing.T) {
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	require.Equal(t, "reply to: one", first.text(t))
	require.Equal(t, pool.ProcessCold, first.process)
	second := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", second.text(t))
	require.Equal(t, "reused", second.process)
	require.Equal(t, first.pid, second.pid)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

func TestPool_SimultaneousRequestsOfAUserDontMix(t *testing.T) {
	s := newService(t, nil)
	var wg sync.WaitGroup
	replies := make([]reply, 5)
	for i := range replies {
		wg.Go(func() { replies[i] = s.ask("ada", "question "+strconv.Itoa(i), nil) })
	}
	wg.Wait()
	for i, r := range replies {
		require.Equal(t, "reply to: question "+strconv.Itoa(i), r.text(t))
		require.Equal(t, replies[0].pid, r.pid)
		require.Len(t, r.of("assistant"), 1)
	}
}

func TestPool_AClientThatHangsUpDoesntPoisonTheNextRequest(t *testing.T) {
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	ctx, hangUp := context.WithCancel(t.Context())
	before := len(s.api.Calls())
	response, err := s.start(ctx, "ada", "abandoned [[words=200]][[delay=100ms]]", nil)
	require.NoError(t, err)
	s.awaitCall(before)
	hangUp()
	_ = response.Body.Close()

	sent := time.Now()
	next := s.ask("ada", "next", nil)
	require.Equal(t, "reply to: next", next.text(t))
	t.Logf("answered %v after the hang-up", time.Since(sent))
	require.Equal(t, first.pid, next.pid, "the process stays")
	require.Eventually(t, func() bool { return s.api.Open() == 0 }, 10*time.Second, time.Millisecond, "the abandoned turn's API call has ended")
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: next"}, s.lastCall().Messages())
}

func TestPool_AQueuedClientThatHangsUpLeavesTheQueue(t *testing.T) {
	s := newService(t, nil)
	s.ask("ada", "one", nil)
	done := make(chan reply)
	before := len(s.api.Calls())
	go func() { done <- s.ask("ada", "long [[words=20]][[delay=50ms]]", nil) }()
	s.awaitCall(before)
	ctx, hangUp := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, hangUp)
	_, err := s.start(ctx, "ada", "never mind", nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, (<-done).of("result"), 1)
	require.Equal(t, "reply to: after", s.ask("ada", "after", nil).text(t))
	for _, call := range s.api.Calls() {
		require.NotContains(t, strings.Join(call.Messages(), "\n"), "never mind")
	}
}

func kill(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(n, syscall.SIGKILL))
}

func TestPool_AProcessKilledWhileIdleIsResumed(t *testing.T) {
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	first.text(t)
	kill(t, first.pid)
	second := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", second.text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
	third := s.ask("ada", "three", nil)
	third.text(t)
	require.NotEqual(t, first.pid, third.pid)
}

func TestPool_AProcessKilledInATurnEndsItsStreamAndIsForgotten(t *testing.T) {
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	before := len(s.api.Calls())
	response, err := s.start(t.Context(), "ada", "killed [[words=200]][[delay=100ms]]", nil)
	require.NoError(t, err)
	s.awaitCall(before)
	killed := time.Now()
	kill(t, first.pid)
	r := read(response)
	t.Logf("told %v after the kill", time.Since(killed))
	require.Len(t, r.of("error"), 1)
	require.True(t, r.done)
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

func TestPool_SettingsOfALaterRequestAreInForceOnTheSameProcess(t *testing.T) {
	s := newService(t, nil)
	first := s.ask("ada", "one", fields{"model": "claude-haiku-4-5"})
	first.text(t)
	require.Equal(t, "claude-haiku-4-5", s.lastCall().Model)

	off := s.ask("ada", "two", fields{"model": "claude-haiku-4-5", "thinking": false})
	off.text(t)
	require.Contains(t, string(s.lastCall().Body), `"thinking":{"type":"disabled"}`)
	on := s.ask("ada", "three", fields{"thinking": true, "model": "claude-haiku-4-5"})
	on.text(t)
	require.Contains(t, string(s.lastCall().Body), `"type":"enabled"`)

	plan := s.ask("ada", "four", fields{"permission_mode": "plan"})
	plan.text(t)
	require.Equal(t, "plan", plan.of("system")[0].Get("permissionMode").Str)

	sonnet := s.ask("ada", "five", fields{"model": "sonnet"})
	sonnet.text(t)
	require.Contains(t, s.lastCall().Model, "sonnet")
	for _, r := range []reply{off, on, plan, sonnet} {
		require.Equal(t, first.pid, r.pid)
	}
}

func TestPool_AChangedSystemPromptCostsAResumeAndIsInForce(t *testing.T) {
	s := newService(t, nil)
	s.ask("ada", "one", fields{"system": "You are FIRST."}).text(t)
	require.Contains(t, string(s.lastCall().Body), "You are FIRST.")
	second := s.ask("ada", "two", fields{"system": "You are SECOND."})
	second.text(t)
	require.Equal(t, "resumed", second.process)
	require.Contains(t, string(s.lastCall().Body), "You are SECOND.")
	require.NotContains(t, string(s.lastCall().Body), "You are FIRST.")
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

func TestPool_SessionsOfAUserNeverSeeEachOther(t *testing.T) {
	s := newService(t, func(o *pool.Options) { o.IdleTimeout = 200 * time.Millisecond })
	a, b := uuid.NewString(), uuid.NewString()
	s.ask("ada", "alpha", fields{"session_id": a}).text(t)
	s.ask("ada", "beta", fields{"session_id": b}).text(t)
	require.Eventually(t, func() bool { reserved, _ := s.pool.Load(); return reserved == 0 }, 10*time.Second, 20*time.Millisecond)

	again := s.ask("ada", "gamma", fields{"session_id": a})
	again.text(t)
	require.Equal(t, "resumed", again.process)
	require.Equal(t, a, again.of("result")[0].Get("session_id").Str)
	require.Equal(t, []string{"user: alpha", "assistant: reply to: alpha", "user: gamma"}, s.lastCall().Messages())

	stranger := s.ask("eve", "delta", fields{"session_id": a})
	require.Equal(t, pool.ProcessCold, stranger.process)
	require.Equal(t, []string{"user: delta"}, s.lastCall().Messages())
}

func TestPool_HistoryIsOneTurnAndNothingIsSentTwice(t *testing.T) {
	s := newService(t, nil)
	history := []fields{
		{"role": "user", "content": "I am Zoe"}, {"role": "assistant", "content": "Hello Zoe"},
		{"role": "user", "content": "Who am I?"},
	}
	first := s.ask("ada", "", fields{"messages": history})
	require.Equal(t, "reply to: Who am I?", first.text(t))
	require.Equal(t, []string{"user: I am Zoe", "assistant: Hello Zoe", "user: Who am I?"}, s.lastCall().Messages())
	require.Len(t, s.api.Calls(), 1)

	history = append(history, fields{"role": "assistant", "content": "reply to: Who am I?"}, fields{"role": "user", "content": "And you?"})
	second := s.ask("ada", "", fields{"messages": history})
	require.Equal(t, "reply to: And you?", second.text(t))
	require.Equal(t, first.pid, second.pid)
	require.Len(t, s.lastCall().Messages(), 5)
	require.Len(t, s.api.Calls(), 2)

	plain := s.ask("ada", "fresh", nil)
	plain.text(t)
	require.Equal(t, []string{"user: fresh"}, s.lastCall().Messages(), "the default conversation is another one")
}

func TestPool_CommandsInATextAreWordsToTheModel(t *testing.T) {
	s := newService(t, nil)
	s.ask("ada", "one", nil).text(t)
	require.Equal(t, "reply to: /clear", s.ask("ada", "/clear", nil).text(t))
	require.Len(t, s.lastCall().Messages(), 3)
}

func TestPool_FailuresOfTheAPIAreToldAndForgotten(t *testing.T) {
	s := newService(t, func(o *pool.Options) { o.SilenceTimeout = 5 * time.Second })
	s.ask("ada", "one", nil).text(t)
	for _, fault := range []string{"[[status=401]]", "[[status=429]]", "[[status=529]]", "[[status=500]]", "[[silence]]"} {
		r := s.ask("ada", "fault "+fault, nil)
		require.True(t, r.done, fault)
		failed := len(r.of("error")) == 1 || len(r.of("result")) == 1 && r.of("result")[0].Get("is_error").Bool()
		require.True(t, failed, "%s: %s", fault, r.body)
		require.NotContains(t, r.body, "127.0.0.1", fault)
		require.Equal(t, "reply to: after", s.ask("bob", "after", nil).text(t), fault)
	}
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

func TestPool_AnIdleProcessAndAllItStartedIsEnded(t *testing.T) {
	s := newService(t, func(o *pool.Options) { o.IdleTimeout = time.Second })
	first := s.ask("ada", "one", nil)
	first.text(t)
	long := s.ask("ada", "long [[words=25]][[delay=100ms]]", nil)
	long.text(t)
	require.Equal(t, first.pid, long.pid, "a turn longer than the idle timeout is untouched")
	require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == 1 }, 30*time.Second, 20*time.Millisecond)
	require.False(t, exists(first.pid))
	require.EqualValues(t, 1, s.pool.Snapshot().Cleanup.Total)
	require.Contains(t, s.logs.String(), "Cleanup idle process user=")
}

func exists(pid string) bool {
	_, err := os.Stat("/proc/" + pid)
	return err == nil
}

func TestPool_TheTokenIsNowhere(t *testing.T) {
	s := newService(t, nil)
	r := s.ask("ada", "one", nil)
	r.text(t)
	for _, file := range []string{"cmdline", "environ"} {
		content, err := os.ReadFile("/proc/" + r.pid + "/" + file)
		require.NoError(t, err)
		require.NotEmpty(t, content)
		require.NotContains(t, string(content), token("ada"))
	}
	require.NotContains(t, s.logs.String(), token("ada"))
	require.NotContains(t, r.body, token("ada"))
	require.NoError(t, walkFiles(s.root, func(path string, content []byte) {
		require.NotContains(t, string(content), token("ada"), path)
	}))
	require.Equal(t, "Bearer "+token("ada"), s.lastCall().Header.Get("Authorization"))
}

func TestPool_ProgramsAndHigherPermissionsAreRefusedWithoutIsolation(t *testing.T) {
	s := newService(t, nil)
	for name, more := range map[string]fields{
		"command": {"mcp_servers": fields{"x": fields{"command": "touch", "args": []string{"/tmp/never"}}}},
		"mode":    {"permission_mode": "bypassPermissions"},
	} {
		r := s.ask("ada", "one", more)
		require.Equal(t, 400, r.status, name)
		require.True(t, json.Valid([]byte(r.body)), name)
	}
	require.Empty(t, s.api.Calls())
}

func TestPool_LargeMessagesAndEventsPassWhole(t *testing.T) {
	s := newService(t, nil)
	r := s.ask("ada", "event [[bytes=4194304]]", nil)
	require.Equal(t, strings.Repeat("x", 4<<20), r.text(t))
	// Of that much text the CLI itself says that the prompt is too long, so it is a document.
	big := base64.StdEncoding.EncodeToString(append([]byte("%PDF-1.4\n"), make([]byte, 6<<20)...))
	content := []fields{
		{"type": "document", "source": fields{"type": "base64", "media_type": "application/pdf", "data": big}},
		{"type": "text", "text": "read this"},
	}
	response, err := s.start(t.Context(), "bob", "", fields{"messages": []fields{{"role": "user", "content": content}}})
	require.NoError(t, err)
	require.Equal(t, "reply to: read this", read(response).text(t))
	require.True(t, strings.Contains(string(s.lastCall().Body), big), "the API got %d bytes", len(s.lastCall().Body))
}

func TestPool_DrainLetsTheTurnEndAndGivesEverybodyUp(t *testing.T) {
	s := newService(t, nil)
	s.ask("bob", "idle", nil).text(t)
	done := make(chan reply)
	before := len(s.api.Calls())
	go func() { done <- s.ask("ada", "long [[words=20]][[delay=50ms]]", nil) }()
	s.awaitCall(before)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s.pool.Drain(ctx)
	require.NoError(t, ctx.Err())
	require.Len(t, (<-done).of("result"), 1)
	require.Len(t, s.owner.releasedUsers(), 2)
	refused := s.ask("ada", "too late", nil)
	require.Equal(t, 503, refused.status)
}
