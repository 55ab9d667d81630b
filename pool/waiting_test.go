package pool_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

// wait sends a request that waits behind another one, and returns its answer to come.
func (s *service) wait(user, text string) <-chan reply {
	s.t.Helper()
	answer := make(chan reply, 1)
	queued := s.pool.Snapshot().Queued
	go func() {
		response, err := s.start(s.t.Context(), user, text, nil)
		if err == nil {
			answer <- read(response)
		}
		close(answer)
	}()
	require.Eventually(s.t, func() bool { return s.pool.Snapshot().Queued == queued+1 }, time.Minute, time.Millisecond)
	return answer
}

func TestPool_WhoWaitsIsServedInTheOrderOfComing(t *testing.T) {
	s := newScriptedService(t, nil)
	hangUp := s.occupy("ada", nil)
	before := len(s.api.Calls())
	var answers []<-chan reply
	for i := range 10 {
		answers = append(answers, s.wait("ada", fmt.Sprint("q", i)))
	}
	hangUp()
	for i, answer := range answers {
		require.Equal(t, fmt.Sprint("reply to: q", i), (<-answer).text(t))
	}
	for i, call := range s.api.Calls()[before:] {
		said := call.Messages()
		require.Len(t, said, 2*i+1)
		require.Equal(t, fmt.Sprint("user: q", i), said[2*i])
	}
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

// A front that can't reach this instance asks for it, while others can; and a turn may take half an hour.
func TestPool_WhoIsToBeGivenUpIsServedWhileATurnGoesOn(t *testing.T) {
	s := newScriptedService(t, nil)
	s.ask("ada", "one", nil).text(t)
	hangUp := s.occupy("ada", nil)
	s.pool.Evict(userID("ada"))
	for range 2 {
		require.Equal(t, "reply to: aside", s.ask("ada", "aside", fields{"session_id": uuid.NewString()}).text(t))
	}
	require.Empty(t, s.owner.releasedUsers())
	waiting := s.wait("ada", "two")
	hangUp()
	require.Equal(t, "reply to: two", (<-waiting).text(t))
	require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == 1 }, time.Minute, time.Millisecond)
	require.Equal(t, "reply to: three", s.ask("ada", "three", nil).text(t))
}

func TestPool_SaysThatNothingCanBeginWhileMemoryIsShortAndEveryProcessIsBusy(t *testing.T) {
	var short atomic.Bool
	s := newScriptedService(t, func(o *pool.Options) { o.MemoryShort = short.Load })
	short.Store(true)
	require.False(t, s.pool.Full(), "it is not this instance that takes it")
	s.ask("ada", "one", nil).text(t)
	require.False(t, s.pool.Full(), "an idle process can give way")
	hangUp := s.occupy("ada", nil)
	require.True(t, s.pool.Full())
	short.Store(false)
	require.False(t, s.pool.Full())
	hangUp()
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

// What doesn't fit into a pipe would wait for ever for a CLI that doesn't read; and one that reads may never answer.
func TestPool_ACLIThatIsNotReadyInTimeIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, does := range map[string]string{"deaf": "exec sleep 1000", "mute": "cat >/dev/null; true"} {
		cli := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(cli, []byte("#!/bin/sh\n"+does+"\n"), 0o700))
		s := startService(t, cli, nil, func(o *pool.Options) { o.SpawnTimeout = time.Second })
		r := s.ask("ada", "one", fields{"system": strings.Repeat("long ", 50_000)})
		require.Equal(t, http.StatusServiceUnavailable, r.status, r.body)
		require.NotEmpty(t, r.header.Get("Retry-After"), name)
		require.Contains(t, r.body, "could not be made ready", name)
		require.Contains(t, s.logs.String(), "not ready in time", name)
		require.Empty(t, s.processes(), name)
		reserved, _ := s.pool.Load()
		require.Zero(t, reserved, name)
	}
}

// A tool may take as long as it likes: only an API that says nothing is silent. The CLI tells of a task after some
// three seconds, then no more.
func TestPool_AToolThatRunsQuietlyIsNoSilence(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *pool.Options) {
		o.SilenceTimeout = 5 * time.Second
		allowing(t, "Bash")(o)
	})
	quiet := s.ask("ada", `[[tool=Bash {"command":"sleep 10; echo slept","timeout":30000}]]`, nil)
	require.Equal(t, "tool said: slept", quiet.text(t))
	require.Equal(t, quiet.pid, s.ask("ada", "two", nil).pid)
}
