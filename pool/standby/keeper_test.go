package standby

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/cli"
	"claudepool/pool/workspace"
)

func TestKeeper_ABurstMakesMoreReadyForTheNext(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(_ *stage, o *Options) { o.Min = 2 })
	s.await(2)
	require.Equal(t, 2, s.Stats().Ready)
	var burst sync.WaitGroup
	for range 8 {
		burst.Go(func() { _, _ = s.claim("") })
	}
	burst.Wait()
	s.await(7)
	require.LessOrEqual(t, s.Stats().Ready, 8)
}

func TestKeeper_KeepsNoMoreThanThereIsRoomFor(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(s *stage, o *Options) {
		o.Min = 3
		s.room.Store(2)
	})
	s.await(2)
	oldest := s.readyPIDs()[0]
	s.room.Store(1)
	s.look()
	s.eventually(func() bool { return s.Stats().Ready == 1 })
	require.NotContains(t, s.readyPIDs(), oldest)
	s.room.Store(-1) // users have more than their share
	s.look()
	s.eventually(func() bool { return s.Stats().Ready == 0 })
	s.eventually(func() bool { return s.workspaces() == 0 })
	s.room.Store(3)
	s.look()
	s.await(3)
}

func TestKeeper_KeepsNoneWhileMemoryIsShort(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(_ *stage, o *Options) { o.Min = 2 })
	s.await(2)
	s.eventually(func() bool { return s.changed.Load() == 2 })
	s.short.Store(true)
	s.requireClaim("") // after which it looks
	s.eventually(func() bool { return s.Stats().Ready == 0 })
	s.eventually(func() bool { return s.changed.Load() == 3 })
	_, err := s.claim("")
	require.ErrorIs(t, err, ErrNone)
	require.Equal(t, Stats{Misses: 1}, s.Stats())
	s.short.Store(false)
	s.look()
	s.await(2)
}

func TestKeeper_NoneIsWantedWhereNoneIsTheMinimum(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(_ *stage, o *Options) { o.Min = 0 })
	for range 5 {
		_, err := s.claim("")
		require.ErrorIs(t, err, ErrNone)
	}
	require.Never(t, func() bool { return s.workspaces() > 0 }, 200*time.Millisecond, 10*time.Millisecond)
	require.EqualValues(t, 5, s.Stats().Misses)
}

func TestKeeper_OneThatDiesIsReplacedAndNothingOfItIsLeft(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.await(1)
	p := <-s.started
	p.Kill()
	s.eventually(func() bool { pids := s.readyPIDs(); return len(pids) == 1 && pids[0] != p.PID() })
	require.Equal(t, 1, s.workspaces())
	require.Empty(t, state(p.PID()))
}

func TestKeeper_OneThatIsOldIsRenewed(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.await(1)
	old := s.readyPIDs()
	s.age(59 * time.Minute)
	s.look()
	isRenewed := func() bool { pids := s.readyPIDs(); return len(pids) == 1 && pids[0] != old[0] }
	require.Never(t, isRenewed, 200*time.Millisecond, time.Millisecond)
	s.age(2 * time.Minute)
	s.look()
	s.eventually(isRenewed)
	s.awaitState(old[0], "")
}

// age makes all processes older.
func (s *stage) age(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ready {
		p.readySince = p.readySince.Add(-by)
	}
}

func TestKeeper_WhatIsReadyForAWhileIsFrozenUntilItIsClaimed(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(_ *stage, o *Options) { o.FreezeAfter = 50 * time.Millisecond })
	s.await(1)
	p := <-s.started
	s.awaitState(p.PID(), "T")
	require.Equal(t, p, s.requireClaim("").Process)
	require.NotEqual(t, "T", state(p.PID()))
	s.run(p)
}

// broken starts nothing.
type broken struct{ Starter }

var errBroken = errors.New("broken")

func (broken) Queue(context.Context) error           { return nil }
func (broken) NewFolder() (*workspace.Folder, error) { return nil, errBroken }

// While none can be started, users who come don't have it tried more often, and the log isn't filled.
func TestKeeper_WhatCantBeStartedIsTriedLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs bytes.Buffer
		began := time.Now()
		k := New(Options{Logger: slog.New(slog.NewTextHandler(&logs, nil)), Starter: broken{}, Min: 2,
			FreezeAfter: time.Hour, Room: func() int { return 10 }, MemoryShort: func() bool { return false },
			Changed: func() {}})
		for time.Since(began) < 3*time.Minute {
			_, err := k.Claim(t.Context(), ada, "")
			require.ErrorIs(t, err, ErrNone)
			time.Sleep(100 * time.Millisecond)
		}
		k.Close()
		line := regexp.MustCompile(`time=(\S+) .*a standby could not be started.* error=broken retry_seconds=(\d+)`)
		tries := line.FindAllStringSubmatch(logs.String(), -1)
		pauses := []int{1, 2, 4, 8, 16, 32, 60, 60}
		require.Len(t, tries, len(pauses))
		next := began
		for i, try := range tries {
			at, err := time.Parse(time.RFC3339Nano, try[1])
			require.NoError(t, err)
			require.WithinDuration(t, next, at, time.Millisecond)
			require.Equal(t, strconv.Itoa(pauses[i]), try[2])
			next = next.Add(time.Duration(pauses[i]) * time.Second)
		}
	})
}

func TestKeeper_StopsWhenItIsToldAndWaitsForClaims(t *testing.T) {
	t.Parallel()
	claiming, goOn := make(chan struct{}), make(chan struct{})
	s := newStage(t, func(_ *stage, o *Options) {
		o.Min = 2
		o.OnClaim = func(*cli.Process) { close(claiming); <-goOn }
	})
	s.await(2)
	claimed := make(chan *Process)
	go func() { p, _ := s.claim(""); claimed <- p }()
	<-claiming
	s.Stop()
	s.eventually(func() bool { return s.Stats().Ready == 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s.Wait(ctx)
	require.Error(t, ctx.Err(), "one is being claimed")
	close(goOn)
	p := <-claimed
	s.Wait(t.Context())
	require.Equal(t, 1, s.workspaces(), "what was claimed is another's to remove")
	s.run(p.Process)
	_, err := s.claim("")
	require.ErrorIs(t, err, ErrNone)
}

func TestKeeper_CloseCutsShortWhatIsBeingStarted(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(s *stage, o *Options) { s.bin = script(t, mute) })
	p := <-s.started
	began := time.Now()
	s.Close()
	s.Close()
	require.Less(t, time.Since(began), patience/2)
	require.Empty(t, state(p.PID()))
	require.Zero(t, s.workspaces())
}

func TestKeeper_WhatIsNotReadyInTimeIsGivenUp(t *testing.T) {
	t.Parallel()
	var logs bytes.Buffer
	s := newStage(t, func(s *stage, o *Options) {
		s.bin = script(t, "echo no luck >&2; "+mute)
		o.StartTimeout, o.Logger = 200*time.Millisecond, slog.New(slog.NewTextHandler(&logs, nil))
	})
	p := <-s.started
	s.awaitState(p.PID(), "")
	s.Close()
	require.Contains(t, logs.String(), "not ready in time")
	require.Contains(t, logs.String(), "no luck", "its last words")
}
