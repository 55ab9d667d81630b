package pool

import (
	"context"
	"slices"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/workspace"
)

// slot is the right to work on a conversation, and what only who has it may touch. It rests in its conversation until
// somebody takes it, and is then in nobody else's hands until it is yielded: conversation.slot is nil meanwhile, and
// nothing but this file looks there. What others may see of a conversation is published by the methods here.
type slot struct {
	*conversation

	settings cli.Settings
	seed     api.Reading // history to begin with, until it stands in a transcript
	fresh    bool        // no turn has gone well: what is there is the seed
	dirty    bool        // the transcript may hold a turn that failed
	stuck    bool        // its process could not be ended; it is there yet, and nobody's to use
	goodTurn string      // uuid of the last entry of the last good turn, or of the seed
	answered bool        // a turn has gone well
	origin   string      // where what its process has of what was said before came from, as receipts tell it
}

// takeLocked takes the slot of a conversation at rest. The caller has checked that it is.
func (c *conversation) takeLocked() *slot {
	s := c.slot
	c.slot = nil
	c.leaveLinesLocked()
	return s
}

// leaveLinesLocked removes a conversation from where it stands while it is at rest.
func (c *conversation) leaveLinesLocked() {
	p := c.pool
	at := c.place
	c.place = place{}
	switch {
	case at.user != nil:
		p.idle.remove(at.pool)
		c.user.idle.remove(at.user)
		p.idling.Store(int64(p.idle.list.Len()))
	case at.pool != nil:
		p.dormant.remove(at.pool)
	}
	if at.files {
		p.atRest.Add(-1)
	}
}

// restLocked puts a slot down in its conversation, from where anybody may take it.
func (s *slot) restLocked() {
	c, p := s.conversation, s.pool
	c.slot = s
	switch {
	case c.removed:
	case c.process != nil:
		c.place = place{pool: p.idle.add(c), user: c.user.idle.add(c)}
	default:
		c.place.pool = p.dormant.add(c)
	}
	if c.dir != nil && !c.removed {
		c.place.files = true
		p.atRest.Add(1)
	}
	p.idling.Store(int64(p.idle.list.Len()))
}

// heldLocked reports whether somebody has the conversation's slot.
func (c *conversation) heldLocked() bool { return c.slot == nil }

// hold takes the conversation's slot, waiting for it in line.
func (c *conversation) hold(ctx context.Context) (*slot, error) {
	p := c.pool
	s, turn, err := c.lineUp()
	if s != nil || err != nil {
		return s, err
	}
	timeout := time.NewTimer(p.opts.QueueTimeout)
	defer timeout.Stop()
	select {
	case s := <-turn:
		if s == nil {
			return nil, ErrDraining
		}
		return s, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timeout.C:
		err = api.RateLimited(time.Second, "waited for %s behind this conversation's other requests", p.opts.QueueTimeout)
	}
	if s := c.leaveLine(turn); s != nil {
		s.yield() // it came while we were leaving
	}
	return nil, err
}

// lineUp takes the slot if it is free, else a place in the line for it: turn gets the slot, or nil who is sent away.
func (c *conversation) lineUp() (s *slot, turn chan *slot, err error) {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.draining:
		return nil, nil, ErrDraining
	case !c.heldLocked():
		return c.takeLocked(), nil, nil
	case len(c.waiters) >= p.opts.QueueLimit:
		return nil, nil, api.RateLimited(time.Second, "%d requests of this conversation are waiting already",
			p.opts.QueueLimit)
	}
	turn = make(chan *slot, 1)
	c.waiters = append(c.waiters, turn)
	p.queued++
	return nil, turn, nil
}

// leaveLine gives a place in the line up. It returns the slot if that had come already.
func (c *conversation) leaveLine(turn chan *slot) *slot {
	p := c.pool
	p.mu.Lock()
	i := slices.Index(c.waiters, turn)
	if i >= 0 {
		c.waiters = slices.Delete(c.waiters, i, i+1)
		p.queued--
	}
	p.mu.Unlock()
	if i >= 0 {
		return nil
	}
	return <-turn
}

// dismissLocked sends all away who wait for the slot.
func (c *conversation) dismissLocked() {
	p := c.pool
	for _, turn := range c.waiters {
		turn <- nil
	}
	p.queued -= len(c.waiters)
	c.waiters = nil
}

// takeWith takes the slot of a conversation whose process has ended or is to go, if that is still its process and
// nobody uses it: whoever does sees to it.
func (c *conversation) takeWith(proc *cli.Process) *slot {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.process != proc || c.heldLocked() {
		return nil
	}
	return c.takeLocked()
}

// yield hands the slot to the next in line. It is the caller's no more. A process that has ended, or whose user or pool
// is to have none, goes first. A conversation without a process of which no turn has gone well goes with all it has,
// which may be much: its client has to say all of it again.
func (s *slot) yield() {
	p, c, stuck := s.pool, s.conversation, s.stuck
	p.mu.Lock()
	// Whether it is alive is asked with the lock held: awaitExit looks for one that has ended, at rest, under the same
	// lock.
	retire := c.process != nil && len(c.waiters) == 0 && (p.draining || c.user.leaving || !c.process.Alive())
	useless := c.process == nil && len(c.waiters) == 0 && !s.answered && !c.removed
	switch {
	case stuck, retire:
	case len(c.waiters) > 0:
		c.waiters[0] <- s
		c.waiters = c.waiters[1:]
		p.queued--
	case useless:
		s.removeLocked()
		s.restLocked()
	default:
		s.restLocked()
	}
	p.mu.Unlock()
	signal(p.wake)
	signal(p.changed)
	switch {
	case stuck:
		p.work.Go(s.retryEnd)
	case retire:
		p.work.Go(s.endIdle)
	}
	if useless {
		p.work.Go(c.dropFiles)
	}
}

// install gives the conversation its process, for which room was reserved.
func (s *slot) install(proc *cli.Process) {
	p := s.pool
	p.mu.Lock()
	s.process, s.started, s.freezeTried = proc, time.Now(), false
	p.running[s.conversation] = true
	p.mu.Unlock()
	signal(p.changed)
	p.work.Go(func() { s.conversation.awaitExit(proc) })
}

// processEnded says that nothing of the conversation's process is left.
func (s *slot) processEnded() {
	p := s.pool
	p.mu.Lock()
	s.process, s.stuck = nil, false
	delete(p.running, s.conversation)
	s.user.countLocked(0, -1)
	p.mu.Unlock()
	signal(p.changed)
}

// setDir publishes the conversation's workspace.
func (s *slot) setDir(f *workspace.Folder) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.setDirLocked(f)
}

// setDirLocked gives the conversation a workspace, or none.
func (c *conversation) setDirLocked(f *workspace.Folder) {
	if c.dir != nil {
		c.user.workspaces--
	}
	if c.dir = f; f != nil {
		c.user.workspaces++
	}
}

// rename gives a conversation that no client has named the id that its process has.
func (s *slot) rename(id string) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	delete(s.user.conversations, s.id)
	s.id = id
	s.user.conversations[id] = s.conversation
}

// hideDigests marks the conversation as one whose digests can't be relied on until a turn has gone well.
func (s *slot) hideDigests() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.setDigestsLocked(s.digests, false)
	s.pool.toMeasure[s.user] = true
}

// showDigests says that the conversation is what it was before its turn, or will be for who gets the slot next.
func (s *slot) showDigests() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.setDigestsLocked(s.digests, true)
}

// setDigests publishes what has been said in the conversation by now.
func (s *slot) setDigests(digests api.Digests) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.spoken = true
	s.setDigestsLocked(digests, true)
}
