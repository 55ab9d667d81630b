package hostile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a turn may take before it counts as lost. A client's own is longer.
const patience = 30 * time.Second

// turn has one turn and returns how long its first token took. Its error is one of the client's.
func (s *stage) turn(ctx context.Context, token, text string) (first time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := s.client.Ask(ctx, token, text)
	return answer.FirstToken, err
}

// users are people who have been served before, and ask again and again.
type users struct {
	stage  *stage
	name   string
	mu     sync.Mutex // guards the following
	quiet  []time.Duration
	during []time.Duration
	lost   []error
}

const usersAtOnce = 4

func (s *stage) newUsers() *users {
	u := &users{stage: s, name: strings.ReplaceAll(s.Name(), "/", "-")} // of this test: conversations grow with each turn
	for n := range usersAtOnce {
		_, err := s.turn(s.Context(), u.token(n), "hello")
		require.NoError(s, err)
	}
	return u
}

func (u *users) token(n int) string { return fmt.Sprint(honest, u.name, n) }

// talk has turns until ctx is done, and notes how long each took, in one of the lists.
func (u *users) talk(ctx context.Context, times *[]time.Duration) {
	var all sync.WaitGroup
	for n := range usersAtOnce {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				first, err := u.stage.turn(u.stage.Context(), u.token(n), fmt.Sprint("again ", i))
				u.mu.Lock()
				if *times = append(*times, first); err != nil {
					u.lost = append(u.lost, err)
				}
				u.mu.Unlock()
				time.Sleep(30 * time.Millisecond)
			}
		})
	}
	all.Wait()
}

// under has the users talk while it is quiet and while flood goes on, in turn, for as long as the test's form says.
func (u *users) under(flood func(ctx context.Context)) {
	if long() {
		u.alternate(6, 10*time.Second, flood)
		return
	}
	u.alternate(1, 3*time.Second, flood)
}

// alternate has the users talk in so many quiet blocks and so many in which flood goes on.
func (u *users) alternate(blocks int, block time.Duration, flood func(ctx context.Context)) {
	for range blocks {
		for _, attacked := range []bool{false, true} {
			ctx, cancel := context.WithTimeout(u.stage.Context(), block)
			var all sync.WaitGroup
			times := &u.quiet
			if attacked {
				times = &u.during
				all.Go(func() { flood(ctx) })
			}
			u.talk(ctx, times)
			all.Wait()
			cancel()
		}
	}
	u.judge()
}

// judge requires that no turn was lost and, in the long form, that few became much slower.
func (u *users) judge() {
	s := u.stage
	require.Empty(s, u.lost, "lost turns; %s", s.front)
	quiet, during := p95(u.quiet), p95(u.during)
	s.Logf("first token, p95 of %d turns while quiet %.1f ms, of %d attacked %.1f ms (%.2f times), at most %.1f and "+
		"%.1f ms",
		len(u.quiet), ms(quiet), len(u.during), ms(during), float64(during)/float64(quiet), ms(slices.Max(u.quiet)),
		ms(slices.Max(u.during)))
	if long() {
		require.GreaterOrEqual(s, min(len(u.quiet), len(u.during)), 200)
		require.Less(s, float64(during)/float64(quiet), 3.0)
	}
}

// sparing has an attacker wait until this process, in which all of them are, has taken no more than half of a
// processor.
func sparing(began time.Time, before time.Duration) {
	for processorTime()-before > time.Since(began)/2 {
		time.Sleep(10 * time.Millisecond)
	}
}

func processorTime() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // fails for nobody but others
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func p95(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)*95/100]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
