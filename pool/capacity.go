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

// line is conversations at rest, the one that was used longest ago first. The pool's lock guards it.
type line struct {
	list list.List
	last *list.Element // that was put in its place last, if it is still there
}

// addLocked puts a conversation in its place, which is the end, or near that of the one before where all of a user's are
// put back.
func (l *line) addLocked(c *conversation) *list.Element {
	at := l.list.Back()
	if l.last != nil && isLater(at, c) {
		at = l.last
		for next := at.Next(); next != nil && !isLater(next, c); next = at.Next() {
			at = next
		}
	}
	for at != nil && isLater(at, c) {
		at = at.Prev()
	}
	if at == nil {
		l.last = l.list.PushFront(c)
	} else {
		l.last = l.list.InsertAfter(c, at)
	}
	return l.last
}

// isLater reports whether the conversation at a place was used after the other.
func isLater(at *list.Element, c *conversation) bool {
	return at != nil && at.Value.(*conversation).lastUsed.After(c.lastUsed)
}

// removeLocked takes a conversation out.
func (l *line) removeLocked(at *list.Element) {
	if l.last == at {
		l.last = at.Prev()
	}
	l.list.Remove(at)
}

// firstLocked is the conversation that was used longest ago, or nil.
func (l *line) firstLocked() *conversation {
	if front := l.list.Front(); front != nil {
		return front.Value.(*conversation)
	}
	return nil
}

// countLocked changes how many requests and processes a user has.
func (u *user) countLocked(requests, processes int) {
	u.changeLocked(func() {
		u.requests += requests
		u.processes += processes
		u.pool.slots += processes
	})
	u.pool.empty.Broadcast()
}

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

// isNewcomerLocked reports whether the user is about to get a process and has none. Who isn't let in yet may never get one.
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
	if c := from.nextVictimLocked(); c != nil {
		victim = c.takeLocked()
	}
	return victim, ofUser, false
}

// nextVictimLocked is the conversation that gives way first, or nil: an unproven user's, else the one that was used longest
// ago.
func (l *line) nextVictimLocked() *conversation {
	for e := l.list.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conversation); c.user.isUnproven() {
			return c
		}
	}
	return l.firstLocked()
}

// atConversationLimit reports whether the user has as many conversations with files as may be.
func (p *Pool) atConversationLimit(u *user) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return u.workspaces >= p.opts.MaxConversations
}

// takeLongestUnused takes the slot of the conversation with files that was used longest ago: of those without a process,
// else of the idle ones. Nil is for all users.
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

// takeOfTooLarge takes the slot of what a user has used longest ago who has more than there may be.
func (p *Pool) takeOfTooLarge() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := p.quota.tooMuch()
	return p.takeOfLargestLocked(func(u *user) bool { return !u.space.Within(most) })
}

// takeOfUnproven takes the slot of what the unproven user has used longest ago who has most.
func (p *Pool) takeOfUnproven() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeOfLargestLocked((*user).isUnproven)
}

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
		idle := c.process != nil
		if victim == nil || idle == (victim.process != nil) && c.lastUsed.Before(victim.lastUsed) || !idle && victim.process != nil {
			victim = c
		}
	}
	return victim
}

// mayLoseFilesLocked reports whether the conversation has files that nobody uses or saves. Where the archive has an older
// version, a request of the user may be on its way that would begin the conversation anew instead of going on from there.
func (c *conversation) mayLoseFilesLocked() bool {
	if c.dir == nil || c.heldLocked() || c.mirror.busy {
		return false
	}
	return c.mirror.version == 0 || c.mirror.fresh && !c.mirror.off || c.user.requests == 0
}

// withoutFiles says that the conversation's files are gone.
func (s *slot) withoutFiles() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	u := s.user
	s.setDirLocked(nil)
	s.pool.toMeasure[u] = true // to be measured anew
	if s.mirror.fresh && !s.mirror.off && len(u.conversations)-u.workspaces < knownWithoutFiles*s.pool.opts.MaxConversations {
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

// takeAllIdle takes the slots of all conversations with a process that nobody uses.
func (p *Pool) takeAllIdle() []*slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle.takeAllLocked()
}

// takeIdle does so for one user, who is to be given up.
func (u *user) takeIdle() []*slot {
	u.pool.mu.Lock()
	defer u.pool.mu.Unlock()
	if !u.leaving {
		u.leaving, u.leavingSince = true, time.Now()
	}
	return u.idle.takeAllLocked()
}

func (l *line) takeAllLocked() (taken []*slot) {
	for c := l.firstLocked(); c != nil; c = l.firstLocked() {
		taken = append(taken, c.takeLocked())
	}
	return taken
}

// retire ends the processes of idle conversations side by side, and gives up the users who then have none.
func (p *Pool) retire(idle []*slot) {
	for _, s := range idle {
		p.work.Go(s.endIdle)
	}
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
	r := due{next: p.opts.CleanupInterval}
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := p.idle.firstLocked(); c != nil; c = p.idle.firstLocked() {
		if left := p.opts.IdleTimeout - now.Sub(c.lastUsed); left > 0 {
			r.next = min(r.next, left)
			break
		}
		r.expired = append(r.expired, c.takeLocked())
	}
	p.toFreezeLocked(now, &r)
	p.staleLocked(now, &r)
	return r
}

// toFreezeLocked finds those that are to be frozen. They are at the end, as what was used before has rested; one that was
// held then, without being used, goes on until its next use.
func (p *Pool) toFreezeLocked(now time.Time, r *due) {
	pause := p.froze.Add(freezePause).Sub(now)
	for e := p.idle.list.Back(); e != nil && !e.Value.(*conversation).freezeTried; e = e.Prev() {
		c := e.Value.(*conversation)
		if left := max(p.opts.FreezeAfter-now.Sub(c.lastUsed), pause); left > 0 {
			r.next = min(r.next, left)
			continue
		}
		c.freezeTried = true
		r.toFreeze = append(r.toFreeze, c.process.Idle())
	}
	if len(r.toFreeze) > 0 {
		p.froze = now
	}
}

// staleLocked forgets conversations whose files have been kept for long enough.
func (p *Pool) staleLocked(now time.Time, r *due) {
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
			r.stale = append(r.stale, c)
		}
	}
}

type cleanupStats struct {
	last     time.Time
	total    int64
	lifetime time.Duration // of all that were cleaned, summed
}

// cleaned counts a process that was idle for too long.
func (p *Pool) cleaned(lifetime time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanup.last = time.Now()
	p.cleanup.total++
	p.cleanup.lifetime += lifetime
}
