package pool_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
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
	"claudepool/pool/api"
)

func TestPool_ASecondRequestFindsTheProcessAndTheConversation(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
		begins := 0
		for _, e := range r.of("system") {
			if e.Get("subtype").Str == "init" {
				begins++
			}
		}
		require.Equal(t, 1, begins, r.body)
		for j := range replies {
			if j != i {
				require.NotContains(t, r.body, "question "+strconv.Itoa(j))
			}
		}
		require.True(t, strings.HasSuffix(r.body, api.Done))
	}
}

func TestPool_AClientThatHangsUpDoesntPoisonTheNextRequest(t *testing.T) {
	t.Parallel()
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
	require.Eventually(t, func() bool { return s.api.Open() == 0 }, 10*time.Second, time.Millisecond,
		"the abandoned turn's API call has ended")
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: next"}, s.lastCall().Messages())
}

func TestPool_AQueuedClientThatHangsUpLeavesTheQueue(t *testing.T) {
	t.Parallel()
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

func kill(t testing.TB, pid string) { signalProcess(t, pid, syscall.SIGKILL) }

func signalProcess(t testing.TB, pid string, sig syscall.Signal) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(n, sig))
}

func TestPool_AProcessKilledWhileIdleIsResumed(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	s.ask("ada", "six", fields{"model": "claude-haiku-4-5", "thinking": false}).text(t)
	omitted := s.ask("ada", "seven", fields{"model": nil})
	omitted.text(t)
	require.Equal(t, "claude-haiku-4-5", s.lastCall().Model)
	require.Contains(t, string(s.lastCall().Body), `"thinking":{"type":"disabled"}`)
	require.Equal(t, "plan", omitted.of("system")[0].Get("permissionMode").Str)
	for _, r := range []reply{off, on, plan, sonnet, omitted} {
		require.Equal(t, first.pid, r.pid)
	}
}

func TestPool_AChangedSystemPromptCostsAResumeAndIsInForce(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	s := newService(t, func(o *pool.Options) { o.IdleTimeout = 200 * time.Millisecond })
	a, b := uuid.NewString(), uuid.NewString()
	s.ask("ada", "alpha", fields{"session_id": a}).text(t)
	s.ask("ada", "beta", fields{"session_id": b}).text(t)
	require.Equal(t, []string{"user: beta"}, s.lastCall().Messages())
	require.NotContains(t, string(s.lastCall().Body), "alpha")
	require.Eventually(t, func() bool { reserved, _ := s.pool.Load(); return reserved == 0 }, 10*time.Second,
		20*time.Millisecond)

	again := s.ask("ada", "gamma", fields{"session_id": a})
	again.text(t)
	require.Equal(t, "resumed", again.process)
	require.Equal(t, a, again.of("result")[0].Get("session_id").Str)
	require.Equal(t, []string{"user: alpha", "assistant: reply to: alpha", "user: gamma"}, s.lastCall().Messages())

	again = s.ask("ada", "epsilon", fields{"session_id": b})
	again.text(t)
	require.Equal(t, "resumed", again.process)
	require.Equal(t, b, again.of("result")[0].Get("session_id").Str)
	require.Equal(t, []string{"user: beta", "assistant: reply to: beta", "user: epsilon"}, s.lastCall().Messages())
	require.NotContains(t, string(s.lastCall().Body), "alpha")

	stranger := s.ask("eve", "delta", fields{"session_id": a})
	require.Equal(t, pool.ProcessCold, stranger.process)
	require.Equal(t, []string{"user: delta"}, s.lastCall().Messages())
}

func TestPool_HistoryIsOneTurnAndNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	history := []fields{
		{"role": "user", "content": "I am Zoe"}, {"role": "assistant", "content": "Hello Zoe"},
		{"role": "user", "content": "Who am I?"},
	}
	first := s.ask("ada", "", fields{"messages": history})
	require.Equal(t, "reply to: Who am I?", first.text(t))
	require.Equal(t, []string{"user: I am Zoe", "assistant: Hello Zoe", "user: Who am I?"}, s.lastCall().Messages())
	require.Len(t, s.api.Calls(), 1)

	history = append(history, fields{"role": "assistant", "content": "reply to: Who am I?"},
		fields{"role": "user", "content": "And you?"})
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
	t.Parallel()
	s := newService(t, nil)
	s.ask("ada", "one", nil).text(t)
	require.Equal(t, "reply to: /clear", s.ask("ada", "/clear", nil).text(t))
	require.Len(t, s.lastCall().Messages(), 3)
}

func TestPool_FailuresOfTheAPIAreToldAndForgotten(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *pool.Options) { o.SilenceTimeout = 5 * time.Second })
	s.ask("ada", "one", nil).text(t)
	said := []string{"user: one", "assistant: reply to: one"}
	for fault, status := range map[string]int64{"[[status=401]]": 401, "[[status=429]]": 429, "[[status=529]]": 529,
		"[[status=500]]": 500, "[[silence]]": 0} {
		r := s.ask("ada", "heliotrope "+fault, nil)
		require.True(t, r.done, fault)
		require.NotContains(t, r.body, "127.0.0.1", fault)
		if status == 0 {
			require.Empty(t, r.of("result"))
			require.Len(t, r.of("error"), 1, r.body)
			require.Equal(t, "no answer from the API for 5s", r.of("error")[0].Get("error.message").Str)
		} else {
			require.Len(t, r.of("result"), 1, r.body)
			require.True(t, r.of("result")[0].Get("is_error").Bool(), fault)
			require.Equal(t, status, r.of("result")[0].Get("api_error_status").Int(), r.body)
		}
		after := "after " + strconv.FormatInt(status, 10)
		require.Equal(t, "reply to: "+after, s.ask("ada", after, nil).text(t), fault)
		said = append(said, "user: "+after)
		require.Equal(t, said, s.lastCall().Messages(), fault)
		require.NotContains(t, string(s.lastCall().Body), "heliotrope", fault)
		said = append(said, "assistant: reply to: "+after)
	}
}

func TestPool_AnIdleProcessAndAllItStartedIsEnded(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	s := newService(t, allowing(t, "Bash"))
	const key = "sk-ant-api03-key-of-kim"
	kim := fields{"oauth_credentials": nil, "api_key": key}
	secrets := []string{token("ada"), key}
	nowhereIn := func(text, where string) {
		t.Helper()
		for _, secret := range secrets {
			require.NotContains(t, text, secret, where)
		}
	}
	nowhere := func(r reply) {
		t.Helper()
		nowhereIn(r.body, "the answer")
		nowhereIn(fmt.Sprint(r.header), "the answer's header")
		for _, pid := range s.processes() {
			for _, file := range []string{"cmdline", "environ"} {
				content, err := os.ReadFile("/proc/" + pid + "/" + file)
				if err != nil && !exists(pid) {
					continue
				}
				require.NoError(t, err)
				nowhereIn(string(content), file)
			}
		}
		for pid, line := range commandLines(t) {
			nowhereIn(line, "the command line of "+pid)
		}
		nowhereIn(s.logs.String(), "the log")
		require.NoError(t, walkFiles(s.root, func(path string, content []byte) { nowhereIn(string(content), path) }))
	}
	r := s.ask("ada", "one", nil)
	r.text(t)
	require.Contains(t, s.processes(), r.pid)
	nowhere(r)
	require.Equal(t, "Bearer "+token("ada"), s.lastCall().Header.Get("Authorization"))
	r = s.ask("kim", "one", kim)
	r.text(t)
	nowhere(r)
	require.Equal(t, key, s.lastCall().Header.Get("X-Api-Key"))
	require.Empty(t, s.lastCall().Header.Get("Authorization"))

	for user, who := range map[string]fields{"ada": {}, "kim": kim} {
		failed := s.ask(user, "[[status=401]]", who)
		require.True(t, failed.of("result")[0].Get("is_error").Bool())
		nowhere(failed)
		before := len(s.api.Calls())
		response, err := s.start(t.Context(), user, "killed [[silence]]", who)
		require.NoError(t, err)
		s.awaitCall(before)
		kill(t, response.Header.Get(api.HeaderPID))
		killed := read(response)
		require.Len(t, killed.of("error"), 1)
		nowhere(killed)
		environment := s.ask(user, `[[tool=Bash {"command":"env; cat /proc/$PPID/environ | tr \"\\0\" \"\\n\""}]]`, who)
		require.Contains(t, environment.text(t), "CLAUDE_CODE_OAUTH_TOKEN=cp-", "the control: that of the process is seen")
		nowhere(environment)
	}
}

func TestPool_ProgramsAndHigherPermissionsAreForWhereIsolationIsInForce(t *testing.T) {
	open := newScriptedService(t, nil)
	confined := newScriptedService(t, func(o *pool.Options) { o.Confined, o.PermissionMode = true, "bypassPermissions" })
	for name, more := range map[string]fields{
		"command": {"mcp_servers": fields{"x": fields{"command": "touch", "args": []string{"/tmp/never"}}}},
		"mode":    {"permission_mode": "bypassPermissions"},
	} {
		r := open.ask("ada", "one", more)
		require.Equal(t, 400, r.status, name)
		require.True(t, json.Valid([]byte(r.body)), name)
		require.Equal(t, "reply to: one", confined.ask("ada", "one", more).text(t), name)
	}
	require.Empty(t, open.api.Calls())
}

func TestPool_LargeMessagesAndEventsPassWhole(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	r := s.ask("ada", "event [[bytes=2097152]]", nil)
	require.Equal(t, strings.Repeat("x", 2<<20), r.text(t))
	// Of that much text the CLI itself says that the prompt is too long, so it is a document.
	big := base64.StdEncoding.EncodeToString(append([]byte("%PDF-1.4\n"), make([]byte, 3<<20)...))
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
	t.Parallel()
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
