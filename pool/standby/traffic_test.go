package standby

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
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

const quiet = 200 * time.Millisecond

func TestTraffic_AWaitEndsWhenNoTurnHasBegunForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic := newTraffic(quiet)
		require.Zero(t, traffic.wait(t.Context(), time.Second), "it is quiet")
		traffic.begin()
		time.AfterFunc(150*time.Millisecond, traffic.begin)
		require.Equal(t, 350*time.Millisecond, traffic.wait(t.Context(), time.Second))
		traffic.begin()
		require.Equal(t, 100*time.Millisecond, traffic.wait(t.Context(), 100*time.Millisecond), "no longer than it may")
	})
}

func TestTraffic_AProcessStandsStillUntilNoTurnHasBegunForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic, s := newTraffic(quiet), &signals{began: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		traffic.begin()
		time.Sleep(time.Second) // so that it has long begun when the process is there
		go traffic.pauseDuring(ctx, time.Minute, s.send)
		time.Sleep(time.Second)
		traffic.begin()
		time.Sleep(150 * time.Millisecond)
		traffic.begin()
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		require.Equal(t, []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT}, s.sent)
		require.Equal(t, []time.Duration{2000 * time.Millisecond, 2350 * time.Millisecond}, s.at)
	})
}

func TestTraffic_AProcessGoesOnWhereTurnsBeginAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic, s := newTraffic(quiet), &signals{began: time.Now()}
		go traffic.pauseDuring(t.Context(), 3*time.Second, s.send)
		for range 1000 {
			traffic.begin()
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		require.Equal(t, []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT}, s.sent)
		require.Equal(t, []time.Duration{0, 3 * time.Second}, s.at)
	})
}

// What a claim delays is the process that takes the place of the one that was claimed.
func TestKeeper_StartsNothingInTheWayOfATurn(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(_ *stage, o *Options) { o.Quiet = time.Hour })
	s.await(1)
	s.requireClaim("")
	require.Never(t, func() bool { return s.workspaces() > 1 }, 300*time.Millisecond, 10*time.Millisecond)
}

func TestKeeper_AProcessBeingStartedStandsStillWhileATurnBegins(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(s *stage, o *Options) {
		s.bin = script(t, mute)
		o.Quiet = time.Hour
	})
	p := <-s.started
	s.TurnBegins()
	s.awaitState(p.PID(), "T")
}

// mute is a CLI that never answers.
const mute = "while read line; do :; done"

// script is a program of the shell.
func script(t *testing.T, text string) (path string) {
	path = filepath.Join(t.TempDir(), "script")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700))
	return path
}
