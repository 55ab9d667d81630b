package pool_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

// newUndying is a service whose processes can't be ended while undying says so.
func newUndying(t *testing.T, change func(*pool.Options)) (s *service, undying *atomic.Bool, tries *atomic.Int64) {
	undying, tries = new(atomic.Bool), new(atomic.Int64)
	s = newScriptedService(t, func(o *pool.Options) {
		o.OnStop(func(int) error {
			if tries.Add(1); undying.Load() {
				return errors.New("it lives")
			}
			return nil
		})
		if change != nil {
			change(o)
		}
	})
	return s, undying, tries
}

func TestSlot_AProcessThatCantBeEndedKeepsItsRoomAndItsUser(t *testing.T) {
	t.Parallel()
	s, undying, tries := newUndying(t, nil)
	first := s.ask("ada", "one", nil)
	first.text(t)
	undying.Store(true)
	s.pool.Evict(userID("ada"))
	require.Eventually(t, func() bool { return tries.Load() > 5 }, time.Minute, time.Millisecond, "it is tried on")
	require.Empty(t, s.owner.releasedUsers())
	require.True(t, exists(first.pid))
	reserved, idle := s.pool.Load()
	require.Equal(t, []int{1, 0}, []int{reserved, idle})
	require.Equal(t, 1, strings.Count(s.logs.String(), "could not be ended"))

	undying.Store(false)
	require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == 1 }, time.Minute, time.Millisecond)
	require.False(t, exists(first.pid))
	again := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", again.text(t))
	require.Equal(t, pool.ProcessResumed, again.process)
}

func TestSlot_ARequestWhoseProcessCantBeReplacedFailsAndAnotherIsServed(t *testing.T) {
	t.Parallel()
	s, undying, _ := newUndying(t, func(o *pool.Options) { o.QueueTimeout = time.Second })
	session := fields{"session_id": uuid.NewString()}
	s.ask("ada", "one", session).text(t)
	undying.Store(true)
	// needs another process
	refused := s.ask("ada", "two", fields{"session_id": session["session_id"], "system": "be brief"})
	require.Equal(t, 503, refused.status, refused.body)
	requireRefused(t, 429, "rate_limit_error", s.ask("ada", "three", session))
	require.Equal(t, "reply to: four", s.ask("ada", "four", fields{"session_id": uuid.NewString()}).text(t))
	undying.Store(false)
	require.Eventually(t, func() bool { return strings.Contains(s.logs.String(), "has ended at last") }, time.Minute,
		time.Millisecond)
	require.Equal(t, "reply to: five", s.ask("ada", "five", session).text(t))
}

func TestSlot_APoolClosesWithoutAProcessesEndAndDoesntGiveItsUserUp(t *testing.T) {
	t.Parallel()
	s, undying, _ := newUndying(t, nil)
	s.ask("ada", "one", nil).text(t)
	s.ask("bob", "one", nil).text(t)
	undying.Store(true)
	s.pool.Evict(userID("ada"))
	require.Eventually(t, func() bool { return strings.Contains(s.logs.String(), "could not be ended") }, time.Minute,
		time.Millisecond)
	s.pool.Close()
	require.Empty(t, s.owner.releasedUsers())
}
