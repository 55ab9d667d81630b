package pool

import (
	"cmp"
	"container/list"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
)

// knownWithoutFiles is how many conversations of a user stay known whose files gave way, for each that may have files.
const knownWithoutFiles = 10

// countLocked changes how many requests and processes a user has.
func (u *user) countLocked(requests, processes int) {
	u.changeLocked(func() {
		u.requests += requests
		u.processes += processes
		u.pool.slots += processes
	})
	u.pool.empty.Broadcast()
}

// changeLocked makes a change that may make the user a newcomer, or one no longer, and keeps the pool's count right.
func (u *user) changeLocked(change func()) {
	p := u.pool
	before := u.isNewcomerLocked()
	change()
	switch after := u.isNewcomerLocked(); {
	case after && !before:
		p.newcomers++
	case before && !after:
		p.newcomers--
	}
	p.reserved.Store(int64(p.slots + p.newcomers))
}

// isNewcomerLocked reports whether the user is about to get a process and has none. Who isn't let in yet may never get
// one.
func (u *user) isNewcomerLocked() bool { return u.requests > u.unadmitted && u.processes == 0 }

// countUnadmitted changes how many of the user's requests wait to be let in.
func (u *user) countUnadmitted(more int) {
	u.pool.mu.Lock()
	defer u.pool.mu.Unlock()
	u.changeLocked(func() { u.unadmitted += more })
}

// room is how many more processes there may be.
func (p *Pool) room() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opts.MaxProcesses - p.slots
}

// reserve takes room for one more process of the slot's user. Where there is none, the process that has been idle for
// longest gives way: the user's own if the user has too many, else an unproven user's, else anybody's.
func (s *slot) reserve() error {
	p := s.pool
	for {
		victim, ofUser, ok := s.user.tryReserve()
		switch {
		case ok:
			return nil
		case victim != nil:
			victim.endIdle()
		case ofUser:
			return api.RateLimited(time.Second, "%d conversations of this user are in use", p.opts.MaxProcessesPerUser)
		default:
			p.opts.Logger.Warn("no room for another process", "user", api.ShortUser(s.user.id)) // an alert counts these lines
			return api.Overloaded(time.Second, "no room for another process")
		}
	}
}

// tryReserve takes room, or the slot of who could make some. ofUser says that the user has too many processes.
func (u *user) tryReserve() (victim *slot, ofUser, ok bool) {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	ofUser = u.processes >= p.opts.MaxProcessesPerUser
	if !ofUser && p.slots < p.opts.MaxProcesses {
		u.countLocked(0, 1)
		return nil, false, true
	}
	from := &p.idle
	if ofUser {
		from = &u.idle
	}
	if c := from.nextVictim(); c != nil {
		victim = c.takeLocked()
	}
	return victim, ofUser, false
}

// atConversationLimit reports whether the user has as many conversations with files as may be.
func (u *user) atConversationLimit() bool {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return u.workspaces >= p.opts.MaxConversations
}

// takeLongestUnused takes the slot of the conversation with files that was used longest ago: of those without a
// process, else of the idle ones. Nil is for all users.
func (p *Pool) takeLongestUnused(of *user) *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if of != nil {
		if c := of.longestUnusedLocked(); c != nil {
			return c.takeLocked()
		}
		return nil
	}
	for _, l := range []*line{&p.dormant, &p.idle} {
		for e := l.list.Front(); e != nil; e = e.Next() {
			if c := e.Value.(*conversation); c.mayLoseFilesLocked() {
				return c.takeLocked()
			}
		}
	}
	return nil
}

// takeOfTooLarge takes the slot of the longest unused conversation of a user whose files are far more than a user may
// have.
func (p *Pool) takeOfTooLarge() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := p.quota.tooMuch()
	return p.takeOfLargestLocked(func(u *user) bool { return !u.space.Within(most) })
}

// takeOfUnproven takes the slot of the longest unused conversation of the unproven user whose files take most.
func (p *Pool) takeOfUnproven() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeOfLargestLocked((*user).isUnproven)
}

// takeOfLargestLocked takes the slot of the longest unused conversation of that one of such users whose files take
// most.
func (p *Pool) takeOfLargestLocked(such func(*user) bool) *slot {
	var victim *conversation
	for _, u := range p.users {
		if such(u) && (victim == nil || u.space.Bytes > victim.user.space.Bytes) {
			victim = cmp.Or(u.longestUnusedLocked(), victim)
		}
	}
	if victim == nil {
		return nil
	}
	return victim.takeLocked()
}

// longestUnusedLocked is, of the user's conversations whose files may give way, the one that was used longest ago.
func (u *user) longestUnusedLocked() (victim *conversation) {
	for _, c := range u.conversations {
		if !c.mayLoseFilesLocked() {
			continue
		}
		if victim == nil || c.losesFilesBeforeLocked(victim) {
			victim = c
		}
	}
	return victim
}

// losesFilesBeforeLocked reports whether its files give way before the other's: those without a process go first, and of
// alike ones what was used longer ago.
func (c *conversation) losesFilesBeforeLocked(other *conversation) bool {
	if running := c.process != nil; running != (other.process != nil) {
		return !running
	}
	return c.lastUsed.Before(other.lastUsed)
}

// mayLoseFilesLocked reports whether the conversation has files that nobody uses or saves. Where the archive has an
// older version, a request of the user may be on its way that would begin the conversation anew instead of going on
// from there.
func (c *conversation) mayLoseFilesLocked() bool {
	if c.dir == nil || c.heldLocked() || c.mirror.busy {
		return false
	}
	return c.mirror.version == 0 || c.mirror.fresh && !c.mirror.off || c.user.requests == 0
}

// withoutFiles says that the conversation's files have been removed.
func (s *slot) withoutFiles() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	u := s.user
	s.setDirLocked(nil)
	s.pool.toMeasure[u] = true // to be measured anew
	most := knownWithoutFiles * s.pool.opts.MaxConversations
	if s.mirror.fresh && !s.mirror.off && len(u.conversations)-u.workspaces < most {
		s.mirror.fetch = true
		if s.mirror.apart {
			s.settings = cli.Settings{} // they come back with the transcript
		}
		return
	}
	s.removeLocked()
	u.recalled = nil // the archive has it, or what was said before the last turns
	u.forgetLocked()
}

// unreserve gives the room of one process back.
func (u *user) unreserve() {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	u.countLocked(0, -1)
}

// takeIdle takes the slots of the user's conversations with a process that nobody uses. From now on the user is to be
// given up.
func (u *user) takeIdle() []*slot {
	u.pool.mu.Lock()
	defer u.pool.mu.Unlock()
	if !u.leaving {
		u.leaving, u.leavingSince = true, time.Now()
	}
	return u.idle.takeAllLocked()
}

// due is what has come due among conversations at rest.
type due struct {
	expired  []*slot         // idle for too long
	toFreeze []cli.Idle      // to be frozen; who uses one meanwhile wakes it
	stale    []*conversation // not known any more
	next     time.Duration   // until something else may be due
}

// takeDue takes what is due at now, from the heads and tails of the lines.
func (p *Pool) takeDue(now time.Time) due {
	d := due{next: p.opts.CleanupInterval}
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := p.idle.first(); c != nil; c = p.idle.first() {
		if left := p.opts.IdleTimeout - now.Sub(c.lastUsed); left > 0 {
			d.next = min(d.next, left)
			break
		}
		d.expired = append(d.expired, c.takeLocked())
	}
	d.addToFreezeLocked(p, now)
	d.addStaleLocked(p, now)
	return d
}

// addToFreezeLocked adds the processes that are to be frozen. They are at the end of the line: what was used before
// them has been tried already, and one that was held at that time isn't tried again before its next use.
func (d *due) addToFreezeLocked(p *Pool, now time.Time) {
	pause := p.froze.Add(freezePause).Sub(now)
	for e := p.idle.list.Back(); e != nil && !e.Value.(*conversation).freezeTried; e = e.Prev() {
		c := e.Value.(*conversation)
		if left := max(p.opts.FreezeAfter-now.Sub(c.lastUsed), pause); left > 0 {
			d.next = min(d.next, left)
			continue
		}
		c.freezeTried = true
		d.toFreeze = append(d.toFreeze, c.process.Idle())
	}
	if len(d.toFreeze) > 0 {
		p.froze = now
	}
}

// addStaleLocked forgets conversations whose files have been kept for long enough, and adds them.
func (d *due) addStaleLocked(p *Pool, now time.Time) {
	var next *list.Element
	for e := p.dormant.list.Front(); e != nil; e = next {
		next = e.Next()
		c := e.Value.(*conversation)
		if now.Sub(c.lastUsed) < p.opts.WorkspaceTTL {
			return
		}
		if c.user.requests == 0 {
			c.removeLocked()
			c.user.recalled = nil // the archive may still have it
			c.user.forgetLocked()
			d.stale = append(d.stale, c)
		}
	}
}

// takeAllLocked takes the slots of all that stand in the line.
func (l *line) takeAllLocked() (taken []*slot) {
	for c := l.first(); c != nil; c = l.first() {
		taken = append(taken, c.takeLocked())
	}
	return taken
}
