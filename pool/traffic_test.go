package pool_test

import (
	"context"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

// signals remembers what a process was sent, and when.
type signals struct {
	began time.Time
	sent  []syscall.Signal
	at    []time.Duration
}

func (s *signals) send(sig syscall.Signal) error {
	s.sent, s.at = append(s.sent, sig), append(s.at, time.Since(s.began))
	return nil
}

func TestTraffic_AProcessStandsStillUntilTheTurnIsOverOrHasLongBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic, s := pool.NewTraffic(), &signals{began: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		go traffic.GiveWay(ctx, s.send)
		time.Sleep(time.Second)
		short := traffic.Begin()
		time.Sleep(50 * time.Millisecond)
		short()
		time.Sleep(time.Second)
		long := traffic.Begin()
		time.Sleep(time.Second)
		long()
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		require.Equal(t, []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT, syscall.SIGSTOP, syscall.SIGCONT}, s.sent)
		require.Equal(t, []time.Duration{time.Second, 1050 * time.Millisecond, 2050 * time.Millisecond, 2250 * time.Millisecond}, s.at)
	})
}

func TestTraffic_AProcessGoesOnWhereTurnsBeginAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic, s := pool.NewTraffic(), &signals{began: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		go traffic.GiveWay(ctx, s.send)
		for range 1000 {
			traffic.Begin()
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		synctest.Wait()
		stopped := time.Duration(0)
		for i := 0; i < len(s.at); i += 2 {
			require.Equal(t, []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT}, s.sent[i:i+2])
			stopped += s.at[i+1] - s.at[i]
		}
		require.Equal(t, 3*time.Second, stopped)
	})
}

// What a turn holds up is the standby that takes the place of the one its user has got.
func TestStandby_IsNotMadeReadyInTheWayOfATurn(t *testing.T) {
	t.Cleanup(pool.SetLongestPause(time.Minute))
	s := newScriptedService(t, withStandby(1))
	s.awaitStandbys(1)
	before := s.processes()
	hangUp := s.occupy("ada", nil)
	var replacement string
	require.Eventually(t, func() bool {
		for _, pid := range s.processes() {
			if pid != before[0] {
				replacement = pid
			}
		}
		return replacement != ""
	}, time.Minute, time.Millisecond)
	awaitState(t, replacement, "T")
	require.Zero(t, s.pool.Snapshot().Standby)
	hangUp()
	s.awaitStandbys(1)
}
