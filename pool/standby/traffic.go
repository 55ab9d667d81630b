package standby

import (
	"context"
	"sync"
	"syscall"
	"time"
)

// maxDelays bounds how long the start of one process may be delayed in all, in quiet times, so that it gets ready
// too where turns begin all the time.
const maxDelays = 15

// traffic knows when turns begin, so that what is started in advance keeps out of their way: a low priority still
// lets it have a processor's caches and the other half of its core. Its methods may be called concurrently.
type traffic struct {
	quiet time.Duration // Options.Quiet
	began chan struct{} // buffered by one

	mu   sync.Mutex // guards last
	last time.Time  // when a turn began
}

func newTraffic(quiet time.Duration) *traffic {
	return &traffic{quiet: quiet, began: make(chan struct{}, 1)}
}

// begin says that a turn begins.
func (t *traffic) begin() {
	t.mu.Lock()
	t.last = time.Now()
	t.mu.Unlock()
	signal(t.began)
}

// untilQuiet is how long it takes until it is quiet, should no turn begin. It is not positive when it is quiet.
func (t *traffic) untilQuiet() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.quiet - time.Since(t.last)
}

// wait returns when it is quiet, when at most so much time has passed, or when ctx is done. It returns how long it
// took.
func (t *traffic) wait(ctx context.Context, most time.Duration) time.Duration {
	began := time.Now()
	for {
		left := min(t.untilQuiet(), most-time.Since(began))
		if left <= 0 || ctx.Err() != nil {
			return time.Since(began)
		}
		sleep(ctx, left)
	}
}

// pauseDuring stops a process by its signals whenever a turn begins, until it is quiet again. It returns when ctx
// is done or the process has stood still for so much time in all; then it runs. It is for one process at a time.
func (t *traffic) pauseDuring(ctx context.Context, most time.Duration, send func(syscall.Signal) error) {
	for most > 0 {
		select {
		case <-ctx.Done():
			return
		case <-t.began:
		}
		if t.untilQuiet() > 0 {
			_ = send(syscall.SIGSTOP) // if it is dead, that shows soon enough
			most -= t.wait(ctx, most)
			_ = send(syscall.SIGCONT)
		}
	}
}
