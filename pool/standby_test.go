package pool_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool"
	"claudepool/pool/confine"
)

func withStandby(n int) func(*pool.Options) {
	return func(o *pool.Options) { o.Standby = n }
}

// withOneStandby has one that isn't replaced before no turn has begun for a minute.
func withOneStandby(o *pool.Options) {
	o.Standby = 1
	o.SetQuiet(time.Minute)
}

// standbyPatience is how long a standby may take to start: its low priority leaves it little of a busy machine.
const standbyPatience = 3 * time.Minute

// awaitStandbys waits until there are n or, as users who come at once raise what is wanted, more.
func (s *service) awaitStandbys(n int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.pool.Snapshot().Standby >= n }, standbyPatience, 5*time.Millisecond)
}

func (s *service) awaitNoStandby() {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.pool.Snapshot().Standby == 0 }, time.Minute, 5*time.Millisecond)
}

// home is the workspace of the one user there is.
func home(t *testing.T, s *service) string {
	links, err := filepath.Glob(s.root + "/*/*-*-*-*-*")
	require.NoError(t, err)
	require.Len(t, links, 1)
	path, err := filepath.EvalSymlinks(links[0])
	require.NoError(t, err)
	return path
}

// Everything the first request asks for is in force for its first turn, and nothing of the warm-up is left anywhere.
func TestStandby_ServesAFirstRequestAsIfItHadBeenStartedForIt(t *testing.T) {
	t.Parallel()
	for name, newService := range map[string]func(testing.TB, func(*pool.Options)) *service{"real": newService,
		"scripted": newScriptedService} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, withOneStandby)
			s.awaitStandbys(1)
			require.Empty(t, s.api.Calls(), "warming up costs no call")
			wishes := servers(toolServer(t))
			wishes["model"], wishes["thinking"], wishes["permission_mode"] = "claude-haiku-4-5", false, "plan"
			first := s.ask("ada", "one", wishes)
			require.Equal(t, "reply to: one", first.text(t))
			require.Equal(t, pool.ProcessStandby, first.process)
			require.Equal(t, []string{"user: one"}, s.lastCall().Messages())
			require.Equal(t, "claude-haiku-4-5", s.lastCall().Model)
			if name == "real" {
				require.Contains(t, string(s.lastCall().Body), `"thinking":{"type":"disabled"}`)
				require.Equal(t, "plan", first.of("system")[0].Get("permissionMode").Str)
				require.Equal(t, "connected", first.birds())
				require.Contains(t, string(s.lastCall().Body), magpie)
			}
			require.Equal(t, "Bearer "+token("ada"), s.lastCall().Header.Get("Authorization"))
			require.NotContains(t, strings.ToLower(string(s.lastCall().Body)), "warm-up")

			second := s.ask("ada", "two", nil)
			require.Equal(t, pool.ProcessReused, second.process)
			require.Equal(t, first.pid, second.pid)
			require.NoError(t, walkFiles(home(t, s), func(path string, content []byte) {
				require.NotContains(t, string(content), "warm-up", path)
			}))
		})
	}
}

// The cost a client is shown is that of its own turn.
func TestStandby_TheWarmUpCostsNobodyAnything(t *testing.T) {
	t.Parallel()
	s := newService(t, withOneStandby)
	s.awaitStandbys(1)
	warm := s.ask("ada", "one", nil)
	require.Equal(t, pool.ProcessStandby, warm.process)
	cold := s.ask("bob", "one", fields{"session_id": "3f0c3c5e-58b3-4f0e-8d0b-0d9d1c3d2b1a"})
	require.Equal(t, pool.ProcessCold, cold.process)
	for _, figure := range []string{"total_cost_usd", "usage.input_tokens", "usage.output_tokens", "num_turns"} {
		require.Equal(t, cold.of("result")[0].Get(figure).Raw, warm.of("result")[0].Get(figure).Raw, figure)
	}
}

// The CLI writes its system prompt for the model it is asked for first, which is that of the warm-up, and keeps it.
func TestStandby_ThePromptIsThatOfTheModelThatIsAskedFor(t *testing.T) {
	t.Parallel()
	s, cold := newService(t, withStandby(1)), newService(t, nil)
	prompts := map[string]bool{}
	for _, model := range []string{"haiku", "opus", "sonnet", "claude-haiku-4-5"} {
		s.awaitStandbys(1)
		require.Equal(t, pool.ProcessStandby, s.ask(model, "one", fields{"model": model}).process)
		cold.ask(model, "one", fields{"model": model}).text(t)
		require.Equal(t, prompt(cold), prompt(s), model)
		require.Equal(t, said(cold), said(s), model)
		prompts[gjson.GetBytes(s.lastCall().Body, "system.2.text").Str] = true
	}
	require.Greater(t, len(prompts), 2, "models have prompts of their own")
}

// said is all that the last call has in messages.
func said(s *service) string { return s.comparable(gjson.GetBytes(s.lastCall().Body, "messages").Raw) }

// A system prompt can't be given to a process that has had a turn, so that some standbys are warmed up without one
// where clients send system prompts.
func TestStandby_OneWithoutATurnTakesASystemPrompt(t *testing.T) {
	t.Parallel()
	for name, newService := range map[string]func(testing.TB, func(*pool.Options)) *service{"real": newService,
		"scripted": newScriptedService} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, withStandby(2))
			s.awaitStandbys(2)
			zebra := fields{"system": "You are a zebra."}
			first := s.ask("ada", "one", zebra)
			require.Equal(t, "reply to: one", first.text(t))
			require.Equal(t, pool.ProcessCold, first.process, "nobody could know")
			require.Equal(t, "reply to: one", s.ask("bob", "one", zebra).text(t))
			user, process := "", pool.ProcessCold
			for i := 0; process == pool.ProcessCold; i++ { // until one is ready that fits
				require.Less(t, i, 20)
				time.Sleep(500 * time.Millisecond)
				user = fmt.Sprint("cleo-", i)
				r := s.ask(user, "two", zebra)
				require.Equal(t, "reply to: two", r.text(t))
				process = r.process
			}
			require.Equal(t, pool.ProcessStandby, process)
			require.Contains(t, string(s.lastCall().Body), "You are a zebra.")
			require.Equal(t, []string{"user: two"}, s.lastCall().Messages())
			require.Equal(t, pool.ProcessReused, s.ask(user, "three", nil).process)
			require.Contains(t, string(s.lastCall().Body), "You are a zebra.")
		})
	}
}

// processes are the pids of all that was started.
func (s *service) processes() (pids []string) {
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(s.t, err)
	for _, path := range environments {
		if environ, err := os.ReadFile(path); err == nil && bytes.Contains(environ, []byte(confine.Marker+"="+s.root)) {
			pids = append(pids, strings.Split(path, "/")[2])
		}
	}
	return pids
}

func TestStandby_WhatItCantBeFittedToStartsCold(t *testing.T) {
	s := newScriptedService(t, withStandby(1))
	for name, more := range map[string]fields{
		"fallback": {"fallback_model": "sonnet"},
		"history": {"messages": []fields{{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"},
			{"role": "user", "content": "two"}}},
	} {
		s.awaitStandbys(1)
		r := s.ask(name, "hello", more)
		r.text(t)
		require.Contains(t, []string{pool.ProcessCold, pool.ProcessResumed}, r.process, name)
	}
}

func TestStandby_GivesWayToUsers(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.Standby, o.MaxProcesses = 2, 3 })
	s.awaitStandbys(2)
	for _, user := range []string{"ada", "bob", "cleo"} {
		response, err := s.start(t.Context(), user, "[[events=1000000]][[delay=10ms]]", nil)
		require.NoError(t, err)
		t.Cleanup(func() { response.Body.Close() })
	}
	s.awaitNoStandby()
	require.Equal(t, 529, s.ask("dan", "hello", nil).status)
}

func TestStandby_GivesWayWhenMemoryIsShort(t *testing.T) {
	var short atomic.Bool
	s := newScriptedService(t, func(o *pool.Options) { o.Standby, o.MemoryShort = 2, short.Load })
	s.awaitStandbys(2)
	short.Store(true)
	require.Equal(t, pool.ProcessStandby, s.ask("ada", "hello", nil).process)
	s.awaitNoStandby()
	require.Zero(t, s.pool.Snapshot().Misses)
	require.Equal(t, pool.ProcessCold, s.ask("bob", "hello", nil).process)
	require.EqualValues(t, 1, s.pool.Snapshot().Misses)
}
