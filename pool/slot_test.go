package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
	"claudepool/pool"
	"claudepool/pool/api"
)

// again does something all the time until it is told to stop.
func again(f func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			f()
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// The race detector sees it where a conversation gets its workspace while its user's are being measured.
func TestSlot_AWorkspaceComesWhileTheUsersAreMeasured(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses, o.MaxProcessesPerUser = 4, 4 })
	defer s.occupy("ada", nil)() // or the user would not be measured
	defer again(s.pool.CheckSpace)()
	for i := range 3 {
		text := fmt.Sprint("question ", i)
		require.Equal(t, "reply to: "+text, s.ask("ada", text, fields{"session_id": uuid.NewString()}).text(t))
	}
}

// forgetful is an archive that takes its time for what is loaded first, has lost what is loaded next, and doesn't list
// anything any more then.
type forgetful struct {
	archive.Store
	loads atomic.Int64
}

func (f *forgetful) Load(ctx context.Context, owner, name string, version int64) ([]byte, error) {
	if f.loads.Add(1) > 1 {
		return nil, errors.New("lost")
	}
	body, err := f.Store.Load(ctx, owner, name, version)
	time.Sleep(time.Second) // last, as reading a file is ordered after what others write, for the race detector
	return body, err
}

func (f *forgetful) List(ctx context.Context, owner string) ([]archive.Record, error) {
	if f.loads.Load() > 1 {
		return nil, nil
	}
	return f.Store.List(ctx, owner)
}

// So does it where a transcript is fetched while the archive is asked what it has of the user.
func TestSlot_ATranscriptIsFetchedWhileTheArchiveIsAsked(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store))
	slow, lost := fields{"session_id": uuid.NewString()}, fields{"session_id": uuid.NewString()}
	first.ask("ada", "one", slow).text(t)
	first.ask("ada", "one", lost).text(t)
	saved(t, dir, 2)
	first.pool.Close()

	way := &forgetful{Store: store}
	second := newScriptedService(t, keepingIn(way))
	var wg sync.WaitGroup
	wg.Go(func() { assert.Equal(t, "reply to: two", second.ask("ada", "two", slow).text(t)) })
	require.Eventually(t, func() bool { return way.loads.Load() == 1 }, time.Minute, time.Millisecond)
	require.Equal(t, http.StatusServiceUnavailable, second.ask("ada", "two", lost).status)
	require.Equal(t, "reply to: two", second.ask("ada", "two", lost).text(t), "it has gone, and begins anew")
	wg.Wait()
	require.Len(t, second.lastCall().Messages(), 3, "what was being fetched stays")
}

// A request that was let in before the drain, and finds its conversation free after it has begun, is sent elsewhere.
func TestSlot_AFreeOneIsNotGivenAwayWhileThePoolDrains(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	s.ask("ada", "one", nil).text(t)
	come, pass := make(chan struct{}), make(chan struct{})
	s.owner.onAdmit(func() {
		close(come)
		<-pass
	})
	answer := make(chan reply)
	go func() { answer <- s.ask("ada", "two", nil) }()
	<-come
	s.owner.onAdmit(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.pool.Drain(ctx)
	require.Eventually(t, func() bool { return len(s.processes()) == 0 }, time.Minute, time.Millisecond)
	close(pass)
	r := <-answer
	require.Equal(t, http.StatusServiceUnavailable, r.status, r.body)
	require.NotEmpty(t, r.header.Get(api.HeaderNotStarted))
	require.Len(t, s.api.Calls(), 1)
}

func TestFreeze_AStandbyStaysReadyWhileItIsFrozen(t *testing.T) {
	t.Parallel()
	const n = 3
	s := newScriptedService(t, func(o *pool.Options) { o.Standby, o.FreezeAfter = n, 300*time.Millisecond })
	s.awaitStandbys(n)
	defer again(func() { assert.Equal(t, n, s.pool.Snapshot().Standby) })()
	for _, pid := range s.processes() {
		awaitState(t, pid, "T")
	}
}
