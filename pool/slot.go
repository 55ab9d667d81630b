package pool

import (
	"errors"
	"slices"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/standby"
	"claudepool/pool/vault"
	"claudepool/pool/workspace"
)

// slot is the right to work on a conversation, and what only its holder may touch. It rests in its conversation until
// somebody takes it, and is then in nobody else's hands until it is put down: conversation.slot is nil meanwhile, and
// nothing but this file looks there. What others may see of a conversation is published by the methods here.
type slot struct {
	*conversation

	settings cli.Settings
	seed     api.Reading   // history to begin with, until it stands in a transcript
	fresh    bool          // no turn has gone well: what is there is the seed
	dirty    bool          // the transcript may hold a turn that failed
	stuck    bool          // its process could not be ended; it is there yet, and nobody's to use
	goodTurn string        // uuid of the last entry of the last good turn, or of the seed
	answered bool          // a turn has gone well
	wish     *standby.Wish // for a parked process, until a turn has gone well
	archived *vault.Body   // what the archive has to fetch, while a process is obtained
	bill     *bill         // of the request that is served; nil: there is none, or nobody counts
	asking   api.Host      // who answers what its processes ask; nil: nobody
	origin   string        // where what its process has of what was said before came from, as receipts tell it
}

// takeLocked takes the slot of a conversation at rest. The caller has checked that it is.
func (c *conversation) takeLocked() *slot {
	s := c.slot
	c.slot = nil
	c.leaveListsLocked()
	return s
}

// leaveListsLocked removes a conversation from where it stands while it is at rest.
func (c *conversation) leaveListsLocked() {
	t, was := c.user.table, c.place
	c.place = place{}
	switch {
	case was.user != nil:
		t.idle.removeLocked(was.all)
		c.user.idle.removeLocked(was.user)
		t.idling.Store(int64(t.idle.list.Len()))
	case was.all != nil:
		t.dormant.removeLocked(was.all)
	}
	if was.files {
		t.atRest.Add(-1)
	}
}

// putBackLocked puts a slot down in its conversation, from where anybody may take it.
func (s *slot) putBackLocked() {
	c, t := s.conversation, s.user.table
	c.slot = s
	switch {
	case c.removed:
	case c.process != nil:
		c.place = place{all: t.idle.addLocked(c), user: c.user.idle.addLocked(c)}
	default:
		c.place.all = t.dormant.addLocked(c)
	}
	if c.dir != nil && !c.removed {
		c.place.files = true
		t.atRest.Add(1)
	}
	t.idling.Store(int64(t.idle.list.Len()))
}

// heldLocked reports whether somebody has the conversation's slot.
func (c *conversation) heldLocked() bool { return c.slot == nil }

// goodTurnLocked is what the last good turn ended with, while nobody has the slot.
func (c *conversation) goodTurnLocked() (turn string) {
	if !c.heldLocked() {
		turn = c.slot.goodTurn
	}
	return turn
}

var errQueueFull = errors.New("pool: queue full") // too many requests of the conversation are waiting already

// enqueue takes the slot if it is free, else a place in the line for it: turn then gets the slot, or nil if the request
// is sent away.
func (c *conversation) enqueue() (s *slot, turn chan *slot, err error) {
	t := c.user.table
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.draining:
		return nil, nil, ErrDraining
	case !c.heldLocked():
		return c.takeLocked(), nil, nil
	case len(c.waiters) >= t.opts.QueueLimit:
		return nil, nil, errQueueFull
	}
	turn, t.queued = make(chan *slot, 1), t.queued+1
	c.waiters = append(c.waiters, turn)
	return nil, turn, nil
}

// leaveQueue gives a place in the line up, and reports whether it did: else the slot has come already.
func (c *conversation) leaveQueue(turn chan *slot) bool {
	t := c.user.table
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(c.waiters, turn)
	if i < 0 {
		return false
	}
	c.waiters = slices.Delete(c.waiters, i, i+1)
	t.queued--
	return true
}

// cancelWaitersLocked sends all away who wait for the slot.
func (c *conversation) cancelWaitersLocked() {
	for _, turn := range c.waiters {
		turn <- nil
	}
	c.user.table.queued -= len(c.waiters)
	c.waiters = nil
}

// sendAway sends all away who wait for the slot.
func (s *slot) sendAway() {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	s.cancelWaitersLocked()
}

// takeWith takes the slot of a conversation whose process has ended or is to go, if that is still its process and the
// slot is free; else the holder of the slot sees to the process.
func (c *conversation) takeWith(proc *cli.Process) *slot {
	t := c.user.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.process != proc || c.heldLocked() {
		return nil
	}
	return c.takeLocked()
}

// takeAtRest takes the slots of all the user's conversations that nobody holds.
func (u *user) takeAtRest() (taken []*slot) {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	for _, c := range u.conversations {
		if !c.heldLocked() {
			taken = append(taken, c.takeLocked())
		}
	}
	return taken
}

// passOn hands the slot to the next in line. It is still the caller's if the process is to retire first, as its user
// or the instance is to have none. A conversation without a process of which no turn has gone well is useless, and
// removed: its client has to say all of it again.
func (s *slot) passOn() (retire, useless bool) {
	c, t := s.conversation, s.user.table
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(c.waiters) > 0:
		c.waiters[0] <- s
		c.waiters = c.waiters[1:]
		t.queued--
		return false, false
	case c.process != nil && (t.draining || c.user.leaving):
		return true, false
	case c.process == nil && !s.answered && !c.removed:
		s.removeLocked()
		useless = true
	}
	s.putBackLocked()
	return false, useless
}

// used says that the slot's conversation was used until now, and how its process is left.
func (s *slot) used(unused cli.Idle) {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	s.lastUsed, s.unused, s.freezeTried = time.Now(), unused, false
}

// setProcess gives the conversation its process, for which room was reserved.
func (s *slot) setProcess(proc *cli.Process) {
	t := s.user.table
	t.mu.Lock()
	defer t.mu.Unlock()
	s.process, s.started, s.freezeTried = proc, time.Now(), false
	t.running[s.conversation] = true
}

// unsetProcess says that nothing of the conversation's process is left.
func (s *slot) unsetProcess() {
	t := s.user.table
	t.mu.Lock()
	defer t.mu.Unlock()
	s.process, s.stuck = nil, false
	delete(t.running, s.conversation)
	s.user.countLocked(0, 0, -1)
}

// trustDigests says whether the digests tell what whoever gets the slot next will find: not while a turn runs.
func (s *slot) trustDigests(can bool) {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	s.setDigestsLocked(s.digests, can)
}

// setDigests publishes what has been said in the conversation by now.
func (s *slot) setDigests(digests api.Digests) {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	s.spoken = true
	s.setDigestsLocked(digests, true)
}

// rename gives a conversation that no client has named the id that its process has.
func (s *slot) rename(id string) {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	delete(s.user.conversations, s.id)
	s.id = id
	s.user.conversations[id] = s.conversation
}

// setDir publishes the conversation's workspace.
func (s *slot) setDir(f *workspace.Folder) {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	s.setDirLocked(f)
}

// remove takes the conversation from its user.
func (s *slot) remove() {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	s.removeLocked()
}

// setFetched says that the archive's transcript is here.
func (s *slot) setFetched() {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	s.mirror.fetch = false
}

// setUnsaved says what is to be saved after a good turn, and completes it. It reports whether the conversation is still
// mirrored.
func (s *slot) setUnsaved(m *vault.Manifest) bool {
	s.user.table.mu.Lock()
	defer s.user.table.mu.Unlock()
	m.Default = s.user.defaultConversation == s.conversation
	if !s.mirror.off {
		s.mirror.unsaved, s.mirror.fresh = m, false
	}
	return !s.mirror.off
}

// setSaved notes that the archive has a version, and whether nothing newer was said than stands there.
func (c *conversation) setSaved(m *vault.Manifest, version int64, isNewest, isApart bool) {
	c.user.table.mu.Lock()
	defer c.user.table.mu.Unlock()
	c.mirror.version, c.mirror.usedAt, c.mirror.apart = version, m.LastUsed, isApart
	c.mirror.fresh = isNewest && c.mirror.unsaved == m
	if c.mirror.fresh {
		c.mirror.unsaved = nil
	}
}

// setMirror changes what is known of the archive.
func (c *conversation) setMirror(m mirror) {
	c.user.table.mu.Lock()
	defer c.user.table.mu.Unlock()
	c.mirror = m
}

// stopMirror says that the conversation isn't mirrored any more.
func (c *conversation) stopMirror() {
	c.user.table.mu.Lock()
	defer c.user.table.mu.Unlock()
	c.mirror.off = true
}

// mirrored is what the archive has of the conversation now.
func (c *conversation) mirrored() mirror {
	c.user.table.mu.Lock()
	defer c.user.table.mu.Unlock()
	return c.mirror
}
