package pool_test

import (
	"bufio"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

var wait = fields{"background": "wait"}

// inBackground has the model run a command beside its turn.
func inBackground(text, command string) string {
	return fmt.Sprintf(`%s [[tool=Bash {"command":%q,"run_in_background":true}]]`, text, command)
}

// results are the texts of all results.
func (r reply) results() (all []string) {
	for _, result := range r.of("result") {
		all = append(all, result.Get("result").Str)
	}
	return all
}

func TestBackground_TheStreamGoesOnUntilTheModelHasBeenToldOfAllWithTheRealCLI(t *testing.T) {
	t.Parallel()
	s := newConfined(t)
	first := s.ask("ada", "one", nil)
	first.text(t)
	r := s.ask("ada", inBackground("two", "sleep 1; echo done"), wait)
	require.True(t, r.done)
	require.Equal(t, pool.ProcessResumed, r.process, "what is offered is so from a process's start")
	require.Len(t, r.results(), 2, r.body)
	require.Contains(t, r.results()[0], "Command running in background")
	require.Equal(t, "task-notification", r.of("result")[1].Get("origin.kind").Str)
	require.Equal(t, "result", r.events[len(r.events)-1].Get("type").Str)
	require.NotContains(t, r.body, "session_state_changed")
	require.EqualValues(t, 3, r.receipt().Get("api_calls").Int())
	require.EqualValues(t, 30, r.receipt().Get("usage.input_tokens").Int(), "of all results")

	history := []fields{{"role": "user", "content": "one"}, {"role": "assistant", "content": "reply to: one"},
		{"role": "user", "content": inBackground("two", "sleep 1; echo done")}, {"role": "assistant",
			"content": strings.Join(r.results(), "")},
		{"role": "user", "content": inBackground("three", "true")}}
	next := s.ask("ada", "", fields{"messages": history})
	require.Equal(t, r.pid, next.pid, "found by the texts of all results")
	require.Len(t, next.results(), 2, "what is omitted stays")

	bad := s.ask("ada", "bad [[status=529]]", nil)
	require.Len(t, bad.of("result"), 1)
	require.True(t, bad.of("result")[0].Get("is_error").Bool())

	none := s.ask("ada", inBackground("four", "true"), fields{"background": "none"})
	require.Equal(t, pool.ProcessResumed, none.process)
	require.Contains(t, none.text(t), "An unexpected parameter `run_in_background`")
}

// Whatever ends a turn before its time ends what it has begun, before the next one.
func TestBackground_WhatAForgottenTurnBeganEndsWithItWithTheRealCLI(t *testing.T) {
	t.Parallel()
	for name, hangsUp := range map[string]bool{"a hang-up": true, "the deadline": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServiceWith(t, confinement(t), func(o *pool.Options) {
				o.PermissionMode, o.Confined, o.TurnTimeout = "bypassPermissions", true, 8*time.Second
			})
			s.ask("ada", "one", wait).text(t)
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			response, err := s.start(ctx, "ada", inBackground("two", "echo $$ > task.pid; sleep 300; echo never"), nil)
			require.NoError(t, err)
			defer response.Body.Close()
			lines := bufio.NewScanner(response.Body)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() && !strings.Contains(lines.Text(), `"type":"result"`) {
			}
			pid := s.taskPID()
			require.True(t, exists(pid))
			if hangsUp {
				hangUp()
			} else {
				for lines.Scan() && !strings.Contains(lines.Text(), "the turn took longer than 8s") {
				}
			}
			next := s.ask("ada", "three", nil)
			require.Equal(t, "reply to: three", next.text(t))
			require.False(t, exists(pid))
			require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: three"}, s.lastCall().Messages())
		})
	}
}

// taskPID is the process id that a command has left in its workspace.
func (s *service) taskPID() (pid string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		_ = walkFiles(s.root, func(path string, content []byte) {
			if filepath.Base(path) == "task.pid" {
				pid = strings.TrimSpace(string(content))
			}
		})
		return pid != ""
	}, 20*time.Second, 10*time.Millisecond)
	return pid
}

func TestBackground_AProcessWithATaskIsNotIdle(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) {
		o.Standby, o.IdleTimeout, o.FreezeAfter, o.CleanupInterval = 1, 300*time.Millisecond, 20*time.Millisecond,
			10*time.Millisecond
	})
	s.awaitStandbys(1)
	r := s.ask("ada", "one [[task=1s]]", wait)
	require.Len(t, r.results(), 2, r.body)
	require.Equal(t, pool.ProcessCold, r.process, "standbys offer nothing of the kind")
	require.Eventually(t, func() bool { reserved, _ := s.pool.Load(); return reserved == 0 }, 30*time.Second,
		10*time.Millisecond)
	again := s.ask("ada", "two [[task=1s]]", nil)
	require.Len(t, again.results(), 2, again.body)
	require.Equal(t, pool.ProcessResumed, again.process)
	require.Len(t, s.ask("bob", "three [[task=10ms]]", nil).results(), 1, "nobody else has asked for it")
}

func TestBackground_AnotherInstanceWaitsToo(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store))
	require.Len(t, first.ask("ada", "one [[task=10ms]]", wait).results(), 2)
	saved(t, dir, 1)
	second := newScriptedService(t, keepingIn(store))
	next := second.ask("ada", "two [[task=10ms]]", nil)
	require.Equal(t, pool.ProcessResumed, next.process)
	require.Len(t, next.results(), 2, next.body)
	require.Equal(t, []string{"user: one [[task=10ms]]", "assistant: reply to: one [[task=10ms]]",
		"assistant: reply to: a task has ended", "user: two [[task=10ms]]"}, second.api.Calls()[0].Messages())
}
