package pool

import (
	"context"
	"sync"
	"syscall"
	"time"
)

// mostDelays bounds how long the making of one process may be delayed in all, in calms, so that it gets ready too where
// turns begin all the time.
const mostDelays = 15

// traffic knows when turns begin, so that what is started in advance keeps out of their way: a low priority still lets it
// have a processor's caches and the other half of its core.
type traffic struct {
	began chan struct{} // buffered by one
	// calm is how long no turn has to have begun before what is started in advance goes on: what a CLI does before it
	// asks the API is over by then, and whoever talks fast has been answered.
	calm time.Duration

	mu   sync.Mutex
	last time.Time // when a turn began
}

func newTraffic(calm time.Duration) *traffic {
	return &traffic{began: make(chan struct{}, 1), calm: calm}
}

// begin says that a turn begins.
func (t *traffic) begin() {
	t.mu.Lock()
	t.last = time.Now()
	t.mu.Unlock()
	signal(t.began)
}

// busy is how long it takes until it is calm, should no turn begin. It is not positive when it is calm.
func (t *traffic) busy() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calm - time.Since(t.last)
}

// wait returns when it is calm, when at most so much time has passed, or when ctx is done. It returns how long it took.
func (t *traffic) wait(ctx context.Context, most time.Duration) time.Duration {
	began := time.Now()
	for {
		left := min(t.busy(), most-time.Since(began))
		if left <= 0 || ctx.Err() != nil {
			return time.Since(began)
		}
		sleep(ctx, left)
	}
}

// giveWay stops a process by its signals whenever a turn begins, until it is calm again. It returns when ctx is done or
// the process has stood still for so much time in all; then it runs. It is for one process at a time.
func (t *traffic) giveWay(ctx context.Context, most time.Duration, send func(syscall.Signal) error) {
	for most > 0 {
		select {
		case <-ctx.Done():
			return
		case <-t.began:
		}
		if t.busy() > 0 {
			_ = send(syscall.SIGSTOP) // if it is dead, that shows soon enough
			most -= t.wait(ctx, most)
			_ = send(syscall.SIGCONT)
		}
	}
}
