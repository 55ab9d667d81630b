package pool

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// gateHold is how long one start may keep others waiting. Most are over sooner; one that its user's files make slow
// mustn't hold up anybody else.
const gateHold = 2 * time.Second

// gate lets as many processes start at a time as there are processors, in the order of coming. A start is all work:
// twenty at once would all be ready when the last one is, and one after the other half of them in half the time.
type gate struct{ starting *semaphore.Weighted }

func newGate() gate { return gate{semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0)))} }

// pass waits for a place. The caller says when its start is over; it may do so more than once.
func (g gate) pass(ctx context.Context) (over func(), err error) {
	if err := g.starting.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	leave := sync.OnceFunc(func() { g.starting.Release(1) })
	timer := time.AfterFunc(gateHold, leave)
	return func() { timer.Stop(); leave() }, nil
}
