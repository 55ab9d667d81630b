package pool_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

func requireRefused(t *testing.T, status int, kind string, r reply) {
	t.Helper()
	require.Equal(t, status, r.status, r.body)
	require.NotEmpty(t, r.header.Get("Retry-After"))
	require.Contains(t, r.body, `"`+kind+`"`)
}

func TestPool_WhenFullTheLongestIdleGivesWayAndIsResumedLater(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 2 })
	ada, bob := s.ask("ada", "one", nil), s.ask("bob", "one", nil)
	ada.text(t)
	bob.text(t)
	s.ask("eve", "one", nil).text(t)
	require.False(t, exists(ada.pid))
	require.True(t, exists(bob.pid))
	require.Len(t, s.owner.releasedUsers(), 1)

	again := s.ask("ada", "two", nil)
	again.text(t)
	require.Equal(t, "resumed", again.process)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
	require.False(t, exists(bob.pid), "by then bob's was idle for longest")
	require.Equal(t, 2, s.pool.Snapshot().Processes)
}

func TestPool_WhenAllAreBusyAnotherUserIsTurnedAway(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 2 })
	hangUp := s.occupy("ada", nil)
	defer s.occupy("bob", nil)()
	requireRefused(t, 529, "overloaded_error", s.ask("eve", "one", nil))
	hangUp()
	require.Eventually(t, func() bool { _, idle := s.pool.Load(); return idle == 1 }, 30*time.Second, 5*time.Millisecond)
	require.Equal(t, "reply to: two", s.ask("eve", "two", nil).text(t))
}

func TestPool_AUserWithTooManyProcessesLosesAnOwnOne(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcessesPerUser = 2 })
	a, b, c := fields{"session_id": uuid.NewString()}, fields{"session_id": uuid.NewString()},
		fields{"session_id": uuid.NewString()}
	bob := s.ask("bob", "one", nil) // idle for longest, but not ada's
	bob.text(t)
	first := s.ask("ada", "one", a)
	first.text(t)
	s.ask("ada", "one", b).text(t)
	s.ask("ada", "one", c).text(t)
	require.False(t, exists(first.pid))
	require.True(t, exists(bob.pid))

	again := s.ask("ada", "two", a)
	again.text(t)
	require.Equal(t, "resumed", again.process)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())

	defer s.occupy("ada", a)()
	defer s.occupy("ada", c)()
	requireRefused(t, 429, "rate_limit_error", s.ask("ada", "one", b))
	require.Equal(t, "reply to: two", s.ask("bob", "two", nil).text(t))
}

func TestPool_AFullQueueAndALongWaitAreTurnedAway(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.QueueLimit, o.QueueTimeout = 1, time.Second })
	s.ask("ada", "one", nil).text(t)
	hangUp := s.occupy("ada", nil)
	waiting := make(chan reply)
	go func() { waiting <- s.ask("ada", "second", nil) }()
	require.Eventually(t, func() bool { return s.pool.Snapshot().Queued == 1 }, 5*time.Second, time.Millisecond)
	full := s.ask("ada", "third", nil)
	requireRefused(t, 429, "rate_limit_error", full)
	require.Contains(t, full.body, "waiting already")
	long := <-waiting
	requireRefused(t, 429, "rate_limit_error", long)
	require.Contains(t, long.body, "waited for 1s")
	hangUp()
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

// trickle reads 1 KiB a second until fast is closed, then the rest at once.
func trickle(response *http.Response, fast <-chan struct{}) reply {
	body := response.Body
	head := make([]byte, 0, 64<<10)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-fast:
			response.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(strings.NewReader(string(head)), body), body}
			return read(response)
		case <-tick.C:
			n, _ := io.ReadFull(body, head[len(head):len(head)+1<<10])
			head = head[:len(head)+n]
		}
	}
}

// heap is what is in use, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestPool_AClientThatReadsSlowlyHoldsUpNobodyAndFillsNoMemory(t *testing.T) {
	s := newService(t, nil)
	other := fields{"session_id": uuid.NewString()}
	s.ask("ada", "one", other).text(t)
	s.ask("bob", "one", nil).text(t)
	// Small socket buffers, or the answer would be kept there.
	slowly := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network,
		addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(64 << 10)
		}
		return conn, err
	}}}
	defer slowly.CloseIdleConnections()
	const words, size = 256, 32 << 10 // 8 MiB as events, and as much again in the message and in the result each
	before := heap()
	response, err := s.startWith(t.Context(), slowly, "ada", "large [[words=256]][[size=32768]]", nil)
	require.NoError(t, err)
	fast, slow := make(chan struct{}), make(chan reply)
	go func() { slow <- trickle(response, fast) }()

	var most int64
	for i := range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		user, more := "bob", fields(nil)
		if i%2 == 1 {
			user, more = "ada", other
		}
		prompt, err := s.start(ctx, user, "prompt", more)
		require.NoError(t, err)
		require.Equal(t, "reply to: prompt", read(prompt).text(t))
		cancel()
		most = max(most, heap()-before)
		time.Sleep(300 * time.Millisecond)
	}
	require.Less(t, most, int64(2*words*size), "of three times the size, and what the API's stand-in takes")
	select {
	case <-slow:
		require.Fail(t, "the slow client has been served already")
	default:
	}
	close(fast)
	r := <-slow
	require.Len(t, r.text(t), words*size)
}

// beginUnread begins a turn whose answer is larger than what sockets keep, and returns when nothing moves any more.
func (s *service) beginUnread(user string) *http.Response {
	s.t.Helper()
	response, err := s.start(s.t.Context(), user, "large [[words=768]][[size=32768]]", nil)
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool { return s.pool.Stalled() == 1 }, time.Minute, 10*time.Millisecond)
	return response
}

func TestPool_AClientThatNeverReadsLosesItsTurnAtTheDeadline(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *pool.Options) { o.TurnTimeout, o.QueueTimeout = 10*time.Second, time.Minute })
	s.ask("ada", "one", nil).text(t)
	response := s.beginUnread("ada")
	defer response.Body.Close()
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t), "the conversation is free again")
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

func TestPool_ADrainDoesntWaitForAClientThatNeverReads(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	first.text(t)
	response := s.beginUnread("ada")
	defer response.Body.Close()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(30 * time.Second): // half of what the turn might take
		_ = response.Body.Close()
		require.Fail(t, "Close hangs")
	}
	require.False(t, exists(first.pid))
	require.Len(t, s.owner.releasedUsers(), 1)
}

// A user may begin as many conversations as it likes: the files of so many are kept.
func TestPool_OfAUsersConversationsTheLongestUnusedGiveWay(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	s := newScriptedService(t, keepingIn(store,
		func(o *pool.Options) { o.MaxConversations, o.MaxProcessesPerUser = 3, 2 }))
	var sessions []fields
	for i := range 6 {
		sessions = append(sessions, fields{"session_id": uuid.NewString()})
		s.ask("ada", "one", sessions[i]).text(t)
		saved(t, dir, i+1)
	}
	links, err := filepath.Glob(s.root + "/" + userID("ada") + "/*")
	require.NoError(t, err)
	require.Len(t, links, 3)
	back := s.ask("ada", "two", sessions[0])
	require.Equal(t, "reply to: two", back.text(t))
	require.Equal(t, pool.ProcessResumed, back.process)
	require.Len(t, s.lastCall().Messages(), 3, "it came back from the archive")
}

// Without an archive what gave way begins anew.
func TestPool_WhatGaveWayAndIsNowhereElseBeginsAnew(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxConversations, o.MaxProcessesPerUser = 1, 1 })
	first, second := fields{"session_id": uuid.NewString()}, fields{"session_id": uuid.NewString()}
	s.ask("ada", "one", first).text(t)
	s.ask("ada", "one", second).text(t)
	again := s.ask("ada", "two", first)
	require.Equal(t, "reply to: two", again.text(t))
	require.Equal(t, pool.ProcessCold, again.process)
	require.Equal(t, []string{"user: two"}, s.lastCall().Messages())
}
