package pool_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

// wait sends a request that waits behind another one, and returns its answer to come.
func (s *service) wait(user, text string) <-chan reply {
	s.t.Helper()
	answer := make(chan reply, 1)
	go func() {
		response, err := s.start(s.t.Context(), user, text, nil)
		if err == nil {
			answer <- read(response)
		}
		close(answer)
	}()
	require.Eventually(s.t, func() bool { return s.pool.Snapshot().Queued == 1 }, time.Minute, time.Millisecond)
	return answer
}

func TestPool_CloseSendsThoseAwayWhoWait(t *testing.T) {
	s := newScriptedService(t, nil)
	s.ask("ada", "one", nil).text(t)
	defer s.occupy("ada", nil)()
	waiting := s.wait("ada", "two")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.pool.Close()
	}()
	require.Equal(t, http.StatusServiceUnavailable, (<-waiting).status)
	<-closed
	require.Len(t, s.owner.releasedUsers(), 1)
}

// A lease may end while a request waits: by then its user may be another instance's.
func TestPool_WhoWaitedIsAdmittedOnceMore(t *testing.T) {
	s := newScriptedService(t, nil)
	s.ask("ada", "one", nil).text(t)
	hangUp := s.occupy("ada", nil)
	waiting := s.wait("ada", "two")
	s.owner.refuse(errNotOwner)
	calls := len(s.api.Calls())
	hangUp()
	require.Equal(t, http.StatusMisdirectedRequest, (<-waiting).status)
	require.Len(t, s.api.Calls(), calls, "its turn has not begun")
	s.owner.refuse(nil)
	s.ask("ada", "three", nil).text(t)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: three"}, s.lastCall().Messages())
}

func TestPool_WhoIsEvictedTwiceIsServedAgain(t *testing.T) {
	s := newScriptedService(t, nil)
	s.ask("ada", "one", nil).text(t)
	s.pool.Evict(userID("ada"))
	require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == 1 }, time.Minute, time.Millisecond)
	s.pool.Evict(userID("ada")) // the wish was repeated before it was known to be fulfilled
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t))
}

func TestPool_NothingIsKeptOfAConversationThatNeverBegan(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 1 })
	defer s.occupy("bob", nil)()
	history := fields{"messages": []fields{{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"},
		{"role": "user", "content": "two"}}}
	for range 3 {
		require.Equal(t, 529, s.ask("ada", "", history).status)
	}
	require.Equal(t, 1, s.pool.Conversations(), "bob's")
}

func TestPool_WhatEndedOneTurnDoesntEndTheNext(t *testing.T) {
	s := newScriptedService(t, nil)
	s.ask("ada", "one", nil).text(t)
	s.pool.Doom() // too late for the turn
	two := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", two.text(t))
	require.Equal(t, pool.ProcessResumed, two.process)
}

// What doesn't fit into a pipe would wait for ever for a CLI that doesn't read.
func TestPool_ACLIThatDoesntReadIsGivenUp(t *testing.T) {
	deaf := filepath.Join(t.TempDir(), "deaf")
	require.NoError(t, os.WriteFile(deaf, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o700))
	s := startService(t, deaf, nil, func(o *pool.Options) { o.SpawnTimeout = time.Second })
	r := s.ask("ada", "one", fields{"system": strings.Repeat("long ", 100_000)})
	require.Equal(t, http.StatusServiceUnavailable, r.status, r.body)
	reserved, _ := s.pool.Load()
	require.Zero(t, reserved)
}
