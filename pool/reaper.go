package pool

import (
	"time"

	"claudepool/pool/api"
)

// reap ends processes that have been idle for IdleTimeout. It sleeps until the nearest deadline, at most for
// CleanupInterval, and takes a conversation's slot before it judges it: one that holds a turn is never idle, however
// long the turn.
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

// cleanUp ends what is due at now, freezes what has just become idle, and returns how long it takes until something else
// may be due.
func (p *Pool) cleanUp(now time.Time) (next time.Duration) {
	next = p.opts.CleanupInterval
	var due, restless, stale []*conversation
	p.mu.Lock()
	for _, u := range p.users {
		for id, c := range u.conversations {
			idle := now.Sub(c.lastUsed)
			rest := max(p.opts.FreezeAfter-idle, p.froze.Add(freezePause).Sub(now)) // until its process may be frozen
			switch {
			case c.idleLocked() && idle >= p.opts.IdleTimeout:
				c.held = true
				due = append(due, c)
			case c.idleLocked() && !c.process.rested && rest <= 0:
				c.held = true
				restless = append(restless, c)
			case c.idleLocked() && !c.process.rested:
				next = min(next, p.opts.IdleTimeout-idle, rest)
			case c.idleLocked():
				next = min(next, p.opts.IdleTimeout-idle)
			case c.process == nil && !c.held && u.requests == 0 && idle >= p.opts.WorkspaceTTL:
				u.dropLocked(id)
				stale = append(stale, c)
				p.forgetLocked(u)
			}
		}
	}
	if len(restless) > 0 {
		p.froze = now
	}
	p.mu.Unlock()
	for _, c := range due {
		p.goes(func() { p.cleanUpOne(c, now) })
	}
	if len(restless) > 0 {
		p.goes(func() { p.freezeIdle(restless) })
	}
	for _, c := range stale {
		p.goes(func() { p.dropFiles(c) })
	}
	return next
}

// dropFiles removes the files of a conversation that is not known any more.
func (p *Pool) dropFiles(c *conversation) {
	if err := p.removeWorkspace(c); err != nil {
		p.opts.Logger.Warn("a workspace could not be removed", "error", err)
	}
}

// cleanUpOne ends the process of a held conversation and counts it.
func (p *Pool) cleanUpOne(c *conversation, now time.Time) {
	idle, lifetime := now.Sub(c.lastUsed), now.Sub(c.process.started)
	p.retire(c)
	p.mu.Lock()
	p.cleanup.last = time.Now()
	p.cleanup.total++
	p.cleanup.lifetime += lifetime
	p.mu.Unlock()
	p.opts.Logger.Info("Cleanup idle process user=" + api.ShortUser(c.user.id) + " idle=" + seconds(idle) + "s")
	p.yield(c)
	p.settleUser(c.user.id)
}

// dropLocked forgets a conversation. Its files are still to be removed.
func (u *user) dropLocked(id string) {
	if u.standard == u.conversations[id] {
		u.standard = nil
	}
	delete(u.conversations, id)
	u.recall = nil // the archive may still have it
}
