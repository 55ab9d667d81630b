package snapshot

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errAway = errors.New("away")

// stand is a Store that notes when it is called, and fails or takes its time as it is told.
type stand struct {
	Memory
	mu    sync.Mutex // guards the following
	puts  []time.Duration
	lists int
	fail  error
	slow  time.Duration // Put and List take that long, or until their context ends
	hang  bool          // Delete hangs until its context ends
	begun time.Time
}

func newStand() *stand {
	return &stand{Memory: Memory{instances: make(map[string]Instance)}, begun: time.Now()}
}

// Pace is that of a database.
func (s *stand) Pace() Pace { return pace }

func (s *stand) set(change func(*stand)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *stand) wait(ctx context.Context, count func()) error {
	s.mu.Lock()
	count()
	fail, slow := s.fail, s.slow
	s.mu.Unlock()
	select {
	case <-time.After(slow):
		return fail
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stand) Put(ctx context.Context, i Instance) error {
	if err := s.wait(ctx, func() { s.puts = append(s.puts, time.Since(s.begun)) }); err != nil {
		return err
	}
	return s.Memory.Put(ctx, i)
}

func (s *stand) List(ctx context.Context) ([]Instance, error) {
	if err := s.wait(ctx, func() { s.lists++ }); err != nil {
		return nil, err
	}
	return s.Memory.List(ctx)
}

func (s *stand) Delete(ctx context.Context, id string) error {
	if s.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Memory.Delete(ctx, id)
}

// seconds are the times of the writes since the store was made.
func (s *stand) seconds() []float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []float64
	for _, put := range s.puts {
		all = append(all, put.Seconds())
	}
	return all
}

// logs collects what was logged. It may be used concurrently.
type logs struct {
	mu  sync.Mutex // guards out
	out bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.out.String(), text)
}

// publish runs Publish in the bubble. The returned stop ends it and tells how long that took.
func publish(t *testing.T, store Store, changed <-chan struct{}, log *slog.Logger) (stop func() time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Publish(ctx, store, changed, func() Instance { return Instance{ID: "i1", Processes: 3} }, log)
	}()
	return func() time.Duration {
		cancelled := time.Now()
		cancel()
		<-done
		return time.Since(cancelled)
	}
}

func TestPublish_WritesAtOnceAndThenEvery15Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out := newStand(), &logs{}
		stop := publish(t, store, nil, out.logger())
		time.Sleep(46 * time.Second)
		require.Equal(t, []float64{0, 15, 30, 45}, store.seconds())
		list, err := store.List(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, 3, list[0].Processes)
		require.Equal(t, Lifetime, list[0].ExpiresAt.Sub(list[0].At))
		require.Zero(t, stop())
	})
}

func TestPublish_ChangesAreWrittenAtMostEveryTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out, changed := newStand(), &logs{}, make(chan struct{}, 1)
		stop := publish(t, store, changed, out.logger())
		for range 120 { // 10.8 s, and never at the very moment of a write
			time.Sleep(90 * time.Millisecond)
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		time.Sleep(20 * time.Second)
		puts := store.seconds()
		require.Equal(t, []float64{0, 2, 4, 6, 8, 10, 12, 27}, puts, "the last change is not lost")
		stop()
	})
}

func TestPublish_AChangeAfterALullIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out, changed := newStand(), &logs{}, make(chan struct{}, 1)
		stop := publish(t, store, changed, out.logger())
		time.Sleep(7 * time.Second)
		changed <- struct{}{}
		synctest.Wait()
		require.Equal(t, []float64{0, 7}, store.seconds())
		stop()
	})
}

func TestPublish_ASlowStoreGetsItsSnapshotEvery15SecondsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out := newStand(), &logs{}
		store.set(func(s *stand) { s.slow = 4 * time.Second })
		stop := publish(t, store, nil, out.logger())
		time.Sleep(31 * time.Second)
		require.Equal(t, []float64{0, 15, 30}, store.seconds())
		stop()
	})
}

func TestPublish_AFailingStoreIsLoggedOnceAndHealsWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out := newStand(), &logs{}
		store.set(func(s *stand) { s.fail = errAway })
		stop := publish(t, store, nil, out.logger())
		time.Sleep(59 * time.Second)
		require.Len(t, store.seconds(), 30)
		require.Equal(t, 1, out.count("level=ERROR"))
		store.set(func(s *stand) { s.fail = nil })
		time.Sleep(2 * time.Second)
		list, err := store.List(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, 1, out.count("written again"))
		stop()
		require.Equal(t, 2, out.count("\n"))
	})
}

func TestPublish_AHangingStoreIsGivenUpAfterFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out := newStand(), &logs{}
		store.set(func(s *stand) { s.slow = time.Hour })
		stop := publish(t, store, nil, out.logger())
		time.Sleep(15 * time.Second)
		require.Equal(t, []float64{0, 7, 14}, store.seconds())
		require.Equal(t, 1, out.count("\n"))
		require.Zero(t, stop(), "its end doesn't wait for a write")
	})
}

func TestPublish_DeletesAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out := newStand(), &logs{}
		stop := publish(t, store, nil, out.logger())
		synctest.Wait()
		stop()
		list, err := store.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
		require.Zero(t, out.count("\n"))
	})
}

func TestPublish_AHangingDeleteCostsTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out := newStand(), &logs{}
		store.hang = true
		stop := publish(t, store, nil, out.logger())
		synctest.Wait()
		require.Equal(t, 2*time.Second, stop())
		require.Equal(t, 1, out.count("level=WARN"))
	})
}
