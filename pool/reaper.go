package pool

import (
	"strconv"
	"sync"
	"time"

	"claudepool/infra/snapshot"
	"claudepool/pool/api"
	"claudepool/pool/cli"
)

// freezePause is the least time between two rounds of freezing: each looks at all processes of the machine.
const freezePause = 500 * time.Millisecond

// reap ends processes that have been idle for IdleTimeout, or are in the way of others. It sleeps until the nearest
// deadline, at most for CleanupInterval, and takes a conversation's slot before it judges it: one that holds a turn is
// never idle, however long the turn.
func (p *Pool) reap() {
	timer := time.NewTimer(p.opts.CleanupInterval)
	defer timer.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		timer.Reset(p.cleanUp(time.Now()))
	}
}

// due is what has come due among conversations at rest.
type due struct {
	expired  []*slot         // idle for too long
	crowded  []*slot         // to give way
	toFreeze []cli.Idle      // to be frozen; a request that uses one meanwhile wakes it
	stale    []*conversation // not known any more
	next     time.Duration   // until something else may be due
}

// cleanUp ends what is due at now, freezes what has just become idle, and returns how long it takes until something
// else may be due.
func (p *Pool) cleanUp(now time.Time) (next time.Duration) {
	r := p.table.takeDue(now)
	for _, s := range r.expired {
		p.work.Go(func() { s.cleanUp(now) })
	}
	for _, s := range r.crowded {
		p.evictions.room.Add(1)
		p.work.Go(s.giveWay)
	}
	if len(r.toFreeze) > 0 {
		p.work.Go(func() { cli.Freeze(r.toFreeze...) })
	}
	for _, c := range r.stale {
		p.work.Go(func() { c.dropFiles() })
	}
	return r.next
}

// cleanUp ends the process of an idle conversation and counts it.
func (s *slot) cleanUp(now time.Time) {
	p, idle, lifetime := s.pool, now.Sub(s.lastUsed), now.Sub(s.started)
	if s.endTaken() != nil {
		s.yield()
		return
	}
	p.cleanups.count(lifetime)
	p.opts.Logger.Info("Cleanup idle process user=" + api.ShortUser(s.user.id) + " idle=" + seconds(idle) + "s")
	s.yield()
	s.user.releaseIfUnused()
}

// seconds writes a duration as the cleanup line has it: with one decimal.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) }

// cleanups is the processes that were ended as they were idle for too long. Its methods may be called concurrently.
type cleanups struct {
	mu       sync.Mutex // guards the following
	last     time.Time
	total    int64
	lifetime time.Duration // of all of them, summed
}

func (c *cleanups) count(lifetime time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now()
	c.total++
	c.lifetime += lifetime
}

func (c *cleanups) snapshot() snapshot.Cleanup {
	c.mu.Lock()
	defer c.mu.Unlock()
	return snapshot.Cleanup{Last: c.last, Total: c.total, AvgLifetime: c.lifetime / time.Duration(max(1, c.total))}
}
