package pool_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
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

func TestTraffic_WhoWaitsGoesOnWhenNoTurnHasBegunForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic := pool.NewTraffic()
		require.Zero(t, traffic.Wait(t.Context(), time.Second), "it is calm")
		traffic.Begin()
		time.AfterFunc(150*time.Millisecond, traffic.Begin)
		require.Equal(t, 350*time.Millisecond, traffic.Wait(t.Context(), time.Second))
		traffic.Begin()
		require.Equal(t, 100*time.Millisecond, traffic.Wait(t.Context(), 100*time.Millisecond), "no longer than it may")
	})
}

func TestTraffic_AProcessStandsStillUntilNoTurnHasBegunForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic, s := pool.NewTraffic(), &signals{began: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		traffic.Begin()
		time.Sleep(time.Second) // so that it has long begun when the process is there
		go traffic.GiveWay(ctx, time.Minute, s.send)
		time.Sleep(time.Second)
		traffic.Begin()
		time.Sleep(150 * time.Millisecond)
		traffic.Begin()
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		require.Equal(t, []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT}, s.sent)
		require.Equal(t, []time.Duration{2000 * time.Millisecond, 2350 * time.Millisecond}, s.at)
	})
}

func TestTraffic_AProcessGoesOnWhereTurnsBeginAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic, s := pool.NewTraffic(), &signals{began: time.Now()}
		go traffic.GiveWay(t.Context(), 3*time.Second, s.send)
		for range 1000 {
			traffic.Begin()
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		require.Equal(t, []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT}, s.sent)
		require.Equal(t, []time.Duration{0, 3 * time.Second}, s.at)
	})
}

// What a claim delays is the standby that takes the place of the one its user has got.
func TestStandby_IsNotStartedInTheWayOfATurn(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) {
		o.Standby = 1
		o.SetCalm(time.Hour)
	})
	s.awaitStandbys(1)
	require.Equal(t, pool.ProcessStandby, s.ask("ada", "one", nil).process)
	require.Never(t, func() bool { return len(s.processes()) > 1 }, 300*time.Millisecond, 10*time.Millisecond)
}

func TestStandby_StandsStillWhileATurnBegins(t *testing.T) {
	t.Parallel()
	cli, err := scriptedCLI()
	require.NoError(t, err)
	slow := filepath.Join(t.TempDir(), "slow")
	require.NoError(t, os.WriteFile(slow, []byte("#!/bin/sh\nsleep 30\nexec "+cli+` "$@"`), 0o755))
	s := newScriptedService(t, func(o *pool.Options) {
		o.Standby, o.ClaudeBin = 1, slow
		o.SetCalm(time.Hour)
	})
	require.Eventually(t, func() bool { return len(s.processes()) > 0 }, time.Minute, time.Millisecond)
	go func() { _, _ = s.start(t.Context(), "ada", "one", nil) }()
	require.Eventually(t, func() bool { // of all that is started only the standby ever stands still
		return slices.ContainsFunc(s.processes(), func(pid string) bool {
			stat, _ := os.ReadFile("/proc/" + pid + "/stat")
			return bytes.Contains(stat, []byte(") T "))
		})
	}, 20*time.Second, 10*time.Millisecond)
}
