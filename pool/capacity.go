package pool

import (
	"container/list"
	"time"

	"claudepool/pool/cli"
)

// knownWithoutFiles is how many conversations without files a user may have for each one that may have files. The
// archive keeps as many of all of them.
const knownWithoutFiles = 10

// room is how many more processes there may be.
func (t *table) room() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.opts.MaxProcesses - t.slots
}

// tryReserve takes room for one more process of the user, or the slot of a conversation whose process could give way.
// ofUser says that the user has too many processes.
func (u *user) tryReserve() (victim *slot, ofUser, ok bool) {
	t := u.table
	t.mu.Lock()
	defer t.mu.Unlock()
	ofUser = u.processes >= t.opts.MaxProcessesPerUser
	if !ofUser && t.slots < t.opts.MaxProcesses {
		u.countLocked(0, 0, 1)
		return nil, false, true
	}
	from := &t.idle
	if ofUser {
		from = &u.idle
	}
	if c := from.nextVictimLocked(); c != nil {
		victim = c.takeLocked()
	}
	return victim, ofUser, false
}

// firstLocked is the conversation that was used longest ago, or nil.
func (l *line) firstLocked() *conversation {
	if front := l.list.Front(); front != nil {
		return at(front)
	}
	return nil
}

// nextVictimLocked is the conversation that gives way first, or nil: an unproven user's, else the one that was used
// longest ago.
func (l *line) nextVictimLocked() *conversation {
	for e := l.list.Front(); e != nil; e = e.Next() {
		if at(e).user.isUnproven() {
			return at(e)
		}
	}
	return l.firstLocked()
}

// takeAllLocked takes the slots of all that stand in the line.
func (l *line) takeAllLocked() (taken []*slot) {
	for c := l.firstLocked(); c != nil; c = l.firstLocked() {
		taken = append(taken, c.takeLocked())
	}
	return taken
}

// takeIdle takes the slots of all conversations with a process that nobody uses.
func (t *table) takeIdle() []*slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.idle.takeAllLocked()
}

// takeIdle takes the slots of the user's conversations with a process that nobody uses. From now on the user is to be
// given up.
func (u *user) takeIdle() []*slot {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	if !u.leaving {
		u.leaving, u.leavingSince = true, time.Now()
	}
	return u.idle.takeAllLocked()
}

// isLeaving reports whether the user is to be given up as soon as nothing of it is under way.
func (u *user) isLeaving() bool {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	return u.leaving
}

// isUnproven reports whether the API has never accepted the user's credential.
func (u *user) isUnproven() bool { return !u.standing.proven.Load() }

// atConversationLimit reports whether the user has as many conversations with files as may be.
func (u *user) atConversationLimit() bool {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	return u.workspaces >= u.table.opts.MaxConversations
}

// takeLongestUnused takes the slot of the conversation with files that was used longest ago: of those without a
// process, else of the idle ones.
func (t *table) takeLongestUnused() *slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range []*line{&t.dormant, &t.idle} {
		for e := l.list.Front(); e != nil; e = e.Next() {
			if at(e).evictableLocked() {
				return at(e).takeLocked()
			}
		}
	}
	return nil
}

// takeLongestUnused is the same of the user's conversations.
func (u *user) takeLongestUnused() *slot {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	var victim *conversation
	for _, c := range u.conversations {
		if c.evictableLocked() && (victim == nil || c.evictedBeforeLocked(victim)) {
			victim = c
		}
	}
	if victim == nil {
		return nil
	}
	return victim.takeLocked()
}

// evictedBeforeLocked reports whether its files give way before the other's: those without a process go first, and
// of alike ones what was used longer ago.
func (c *conversation) evictedBeforeLocked(other *conversation) bool {
	if running := c.process != nil; running != (other.process != nil) {
		return !running
	}
	return c.lastUsed.Before(other.lastUsed)
}

// evictableLocked reports whether the conversation has files that nobody uses or saves. Where the archive has an
// older version, a request of the user may be on its way that would begin the conversation anew instead of going on
// from there.
func (c *conversation) evictableLocked() bool {
	if c.dir == nil || c.heldLocked() || c.saver.busy.Load() {
		return false
	}
	return c.mirror.version == 0 || c.mirror.fresh && !c.mirror.off || c.user.requests == 0
}

// filesEvicted says that the conversation's files have been removed.
func (s *slot) filesEvicted() {
	u := s.user
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	s.setDirLocked(nil)
	most := knownWithoutFiles * u.table.opts.MaxConversations
	if s.mirror.fresh && !s.mirror.off && len(u.conversations)-u.workspaces < most {
		s.mirror.fetch = true
		if s.mirror.apart {
			s.settings = cli.Settings{} // they come back with the transcript
		}
		return
	}
	s.removeLocked()
	u.recalled.Store(nil) // the archive has it, or what was said before the last turns
	u.forgetLocked()
}

// takeDue takes what is due at now, from the heads and tails of the lines.
func (t *table) takeDue(now time.Time) due {
	d := due{next: t.opts.CleanupInterval}
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := t.idle.firstLocked(); c != nil; c = t.idle.firstLocked() {
		if left := t.opts.IdleTimeout - now.Sub(c.lastUsed); left > 0 {
			d.next = min(d.next, left)
			break
		}
		d.expired = append(d.expired, c.takeLocked())
	}
	t.ending += len(d.expired)
	d.addCrowdedLocked(t)
	d.addToFreezeLocked(t, now)
	d.addStaleLocked(t, now)
	return d
}

// addCrowdedLocked adds the processes that give way as there is too little room.
func (d *due) addCrowdedLocked(t *table) {
	headroom := int(t.headroom.Load())
	for t.slots-t.ending > t.opts.MaxProcesses-headroom {
		c := t.idle.nextVictimLocked()
		if c == nil {
			return
		}
		t.ending++
		d.crowded = append(d.crowded, c.takeLocked())
	}
}

// endedTaken says that a process that takeDue has taken has ended, or can't be ended.
func (t *table) endedTaken() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ending--
}

// addToFreezeLocked adds the processes that are to be frozen. They are at the end of the line: what was used before
// them has been tried already, and one that was held at that time isn't tried again before its next use.
func (d *due) addToFreezeLocked(t *table, now time.Time) {
	pause := t.lastFreeze.Add(freezePause).Sub(now)
	for e := t.idle.list.Back(); e != nil && !at(e).freezeTried; e = e.Prev() {
		c := at(e)
		if left := max(t.opts.FreezeAfter-now.Sub(c.lastUsed), pause); left > 0 {
			d.next = min(d.next, left)
			continue
		}
		c.freezeTried = true
		d.toFreeze = append(d.toFreeze, c.unused)
	}
	if len(d.toFreeze) > 0 {
		t.lastFreeze = now
	}
}

// addStaleLocked forgets conversations whose files have been kept for long enough, and adds them.
func (d *due) addStaleLocked(t *table, now time.Time) {
	for e := t.dormant.list.Front(); e != nil && now.Sub(at(e).lastUsed) >= t.opts.WorkspaceTTL; {
		c := at(e)
		if e = e.Next(); c.user.requests > 0 {
			continue
		}
		c.removeLocked()
		c.user.recalled.Store(nil) // the archive may still have it
		c.user.forgetLocked()
		d.stale = append(d.stale, c)
	}
}

// processes returns the conversations that have a process now.
func (t *table) processes() []seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]seen, 0, len(t.running))
	for c := range t.running {
		all = append(all, seen{c, c.user.id, c.process, c.started, c.lastUsed, c.heldLocked()})
	}
	return all
}

// line is conversations at rest, the one that was used longest ago first.
type line struct {
	list list.List
	last *list.Element // what was added last, if it is still there
}

// at is the conversation at a place in a line.
func at(place *list.Element) *conversation { return place.Value.(*conversation) }

// addLocked puts a conversation in its place. That is the end of the line, or where all of a user's conversations are
// put back at once, near the one that was put back before.
func (l *line) addLocked(c *conversation) *list.Element {
	after := l.list.Back()
	if l.last != nil && isLaterLocked(after, c) {
		after = l.last
		for next := after.Next(); next != nil && !isLaterLocked(next, c); next = after.Next() {
			after = next
		}
	}
	for after != nil && isLaterLocked(after, c) {
		after = after.Prev()
	}
	if after == nil {
		l.last = l.list.PushFront(c)
	} else {
		l.last = l.list.InsertAfter(c, after)
	}
	return l.last
}

// isLaterLocked reports whether the conversation at a place was used after the other.
func isLaterLocked(place *list.Element, c *conversation) bool {
	return place != nil && at(place).lastUsed.After(c.lastUsed)
}

// removeLocked takes a conversation out.
func (l *line) removeLocked(place *list.Element) {
	if l.last == place {
		l.last = place.Prev()
	}
	l.list.Remove(place)
}
