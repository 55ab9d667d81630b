package pool

import (
	"context"
	"sync/atomic"
	"syscall"
	"time"
)

// mostPauses bounds how long one process may be held up in all, in longest pauses, so that it gets ready too where turns
// begin all the time.
const mostPauses = 15

// longestPause bounds how long the beginning of a turn holds up a process that is being made ready. What a CLI does
// before it asks the API is over by then. Tests take their time.
var longestPause = 200 * time.Millisecond

// traffic counts the turns that run, so that what is started in advance keeps out of their way: a low priority still
// lets it have a processor's caches and the other half of its core.
type traffic struct {
	running atomic.Int32
	moved   chan struct{} // buffered by one: a turn has begun or ended
}

func newTraffic() *traffic { return &traffic{moved: make(chan struct{}, 1)} }

// begin counts a turn until it ends.
func (t *traffic) begin() (end func()) {
	t.running.Add(1)
	signal(t.moved)
	return func() {
		t.running.Add(-1)
		signal(t.moved)
	}
}

// giveWay stops a process by its signals when turns begin, until ctx is done. It is for one process at a time, which
// goes on when it returns.
func (t *traffic) giveWay(ctx context.Context, send func(syscall.Signal) error) {
	for left := mostPauses * longestPause; left > 0; {
		select {
		case <-ctx.Done():
			return
		case <-t.moved:
		}
		if t.running.Load() > 0 {
			left -= t.pause(ctx, send, min(left, longestPause))
		}
	}
}

// pause stops a process until no turn runs any more, or for so long, and returns how long it was.
func (t *traffic) pause(ctx context.Context, send func(syscall.Signal) error, longest time.Duration) time.Duration {
	began := time.Now()
	_ = send(syscall.SIGSTOP) // if it is dead, that shows soon enough
	defer func() { _ = send(syscall.SIGCONT) }()
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	for t.running.Load() > 0 && ctx.Err() == nil {
		select {
		case <-t.moved:
		case <-ctx.Done():
		}
	}
	return time.Since(began)
}
