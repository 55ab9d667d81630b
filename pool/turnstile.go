package pool

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// startHold is how long one start may keep others waiting. Most are over sooner; one that its user's files make slow
// mustn't hold up anybody else.
const startHold = 2 * time.Second

// turnstile lets as many processes start at a time as there are processors, in the order of coming. A start is all
// work: twenty at once would all be ready when the last one is, and one after the other half of them in half the time.
type turnstile struct{ starting *semaphore.Weighted }

func newTurnstile() turnstile { return turnstile{semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0)))} }

// pass waits for a place. The caller says when its start is over; it may do so more than once.
func (t turnstile) pass(ctx context.Context) (over func(), err error) {
	if err := t.starting.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	leave := sync.OnceFunc(func() { t.starting.Release(1) })
	timer := time.AfterFunc(startHold, leave)
	return func() { timer.Stop(); leave() }, nil
}
