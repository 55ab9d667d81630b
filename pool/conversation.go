package pool

import (
	"container/list"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/vault"
	"claudepool/pool/workspace"
)

// knownFormer is how many former tokens of a user are remembered; what an older one leads to is looked up again.
const knownFormer = 16

// conversation is one of a user's conversations. It outlives its process: a conversation whose process was reaped is
// resumed from its transcript. What isn't here is in its slot.
type conversation struct {
	pool        *Pool
	user        *user
	named       bool          // a client chose the id
	incarnation string        // unique: after a deletion another one may begin under the same id
	abandoned   chan struct{} // closed when the pool closes without its process's end

	// Guarded by Pool.mu.
	slot        *slot        // nil while somebody has it; for slot.go alone
	waiters     []chan *slot // first come, first served; buffered by one: nil sends away
	place       place        // where it stands while nobody has its slot
	lastUsed    time.Time
	freezeTried bool // freezing its process was tried since its last use

	// Guarded by Pool.mu. While somebody has the slot, nobody else changes it, and who has it may read it without the
	// lock.
	id           string            // the CLI's session id; until the first process of an unnamed one it may still change
	process      *cli.Process      // nil while there is none
	started      time.Time         // when the process became the conversation's
	dir          *workspace.Folder // nil until the first process
	digests      api.Digests       // of what was said so far
	digestsValid bool              // they are right: no turn is changing them
	spoken       bool              // a turn has gone well: it has more than the history that it began with
	removed      bool              // deleted, or moved to another user: not to be used by who waited for it

	mirror mirror // guarded by Pool.mu; see there
}

// place is where a conversation stands in its pool's lines, and with a process in its user's.
type place struct {
	pool, user *list.Element
	files      bool // atRest counts it
}

// newConversation makes a conversation that the caller holds, and that isn't known yet.
func (u *user) newConversation(id, incarnation string, digests api.Digests) *slot {
	c := &conversation{pool: u.pool, id: id, user: u, incarnation: incarnation, abandoned: make(chan struct{}),
		digests: digests, digestsValid: true, lastUsed: time.Now()}
	return &slot{conversation: c}
}

// pick finds or begins the conversation a request is meant for.
func (u *user) pick(req *api.Request) *conversation {
	p := u.pool
	readings := req.Readings()
	whole := readings[len(readings)-1]
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case req.SessionID != "":
		if c := u.conversations[req.SessionID]; c != nil {
			return c
		}
		c := u.beginLocked(req.SessionID, whole)
		c.named = true
		return c
	case len(req.Messages) > 1:
		if c := u.recognizeLocked(readings); c != nil {
			return c
		}
		return u.beginLocked(uuid.NewString(), whole)
	case req.Stateless:
		return u.beginLocked(uuid.NewString(), whole)
	}
	if u.defaultConversation == nil {
		u.defaultConversation = u.beginLocked(uuid.NewString(), whole)
	}
	return u.defaultConversation
}

// recognizeLocked finds the conversation in which exactly that was said which a request says was said before. Of the
// ways in which its client may have kept the answers the fullest that leads anywhere counts, and if it leads to several
// conversations, nobody knows which is meant.
func (u *user) recognizeLocked(readings []api.Reading) *conversation {
	var digests []api.Digest
	for _, r := range readings {
		digests = append(digests, r.History.Now)
	}
	for _, r := range readings {
		digests = append(digests, r.History.Loose, r.History.Former)
	}
	for _, d := range digests {
		if len(u.byDigest[d]) == 0 { // as of those who say nothing was
			continue
		}
		return closest(u.byDigest[d], d)
	}
	return nil
}

func (u *user) beginLocked(id string, r api.Reading) *conversation {
	s := u.newConversation(id, uuid.NewString(), r.History.Begin())
	s.seed, s.fresh = r, true
	s.joinLocked()
	s.restLocked()
	return s.conversation
}

// joinLocked makes the conversation known as one of its user's.
func (c *conversation) joinLocked() {
	c.user.conversations[c.id] = c
	c.setDigestsLocked(c.digests, c.digestsValid)
}

// setDigestsLocked notes what has been said in the conversation, and whether that is right.
func (c *conversation) setDigestsLocked(digests api.Digests, valid bool) {
	known := c.user.byDigest
	for _, d := range c.digests {
		if delete(known[d], c); len(known[d]) == 0 {
			delete(known, d)
		}
	}
	if c.digestsValid = valid; c.digests != digests { // who has the slot may be reading them
		c.digests = digests
	}
	if !valid || c.removed {
		return
	}
	for _, d := range digests {
		if d == (api.Digest{}) {
			continue
		}
		if known[d] == nil {
			known[d] = make(map[*conversation]bool, 1)
		}
		known[d][c] = true
	}
}

// takeAtRest takes the slots of all the user's conversations that nobody holds, if the user still is a refused one.
func (u *user) takeAtRest() (taken []*slot) {
	u.pool.mu.Lock()
	defer u.pool.mu.Unlock()
	if !u.isRefused() {
		return nil
	}
	for _, c := range u.conversations {
		if !c.heldLocked() {
			taken = append(taken, c.takeLocked())
		}
	}
	return taken
}

// finish gives the slot back after a request.
func (s *slot) finish() {
	if s.process != nil && !s.stuck && !s.process.Alive() {
		_ = s.end() // else yield sees to it
	}
	p := s.pool
	p.mu.Lock()
	s.lastUsed, s.freezeTried = time.Now(), false
	p.mu.Unlock()
	s.yield()
}

// remove takes the conversation from its user.
func (s *slot) remove() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.removeLocked()
}

// removeLocked takes a conversation from its user. Its files are still to be removed.
func (c *conversation) removeLocked() {
	if c.dir != nil && !c.removed {
		c.user.workspaces--
		c.pool.toMeasure[c.user] = true // to be measured anew
	}
	c.removed = true
	c.setDigestsLocked(c.digests, c.digestsValid)
	c.leaveLinesLocked()
	if c.user.defaultConversation == c {
		c.user.defaultConversation = nil
	}
	delete(c.user.conversations, c.id)
}

// seen is what others may know of a conversation with a process at one moment.
type seen struct {
	c        *conversation
	user     string
	process  *cli.Process
	started  time.Time
	lastUsed time.Time
	busy     bool
}

// processes returns the conversations that have a process now.
func (p *Pool) processes() []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]seen, 0, len(p.running))
	for c := range p.running {
		all = append(all, seen{c, c.user.id, c.process, c.started, c.lastUsed, c.heldLocked()})
	}
	return all
}

// moveConversations makes held conversations of a former user the present one's, all at once. copied has those that the
// archive has under the present user already, with their versions there. It returns the new slots, held too, by the
// old ones.
func (from *user) moveConversations(to *user, held []*slot, copied map[*conversation]int64) map[*slot]*slot {
	p := from.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	moved := make(map[*slot]*slot)
	for _, old := range held {
		if copied[old.conversation] == 0 && old.mirror.fetch {
			continue // all that is of it is where it is
		}
		if there := to.conversations[old.id]; there != nil {
			if copied[old.conversation] == 0 || !there.unusedCopyLocked(old.conversation) {
				continue
			}
			there.removeLocked()
		}
		moved[old] = to.takeOverLocked(old, copied[old.conversation])
	}
	to.formerIDs = append(to.formerIDs[max(0, len(to.formerIDs)+1-knownFormer):], from.id)
	p.toMeasure[to] = true
	return moved
}

// takeOverLocked makes another user's held conversation this one's. version is the archive's under this user, or 0.
func (to *user) takeOverLocked(old *slot, version int64) *slot {
	p := to.pool
	s := to.newConversation(old.id, old.incarnation, old.digests)
	c := s.conversation
	c.named, c.spoken, c.digestsValid = old.named, old.spoken, old.digestsValid
	c.lastUsed, c.freezeTried = old.lastUsed, old.freezeTried
	c.setDirLocked(old.dir)
	c.mirror = mirror{off: old.mirror.off}
	if version > 0 {
		c.mirror = mirror{version: version, fresh: old.mirror.fresh, fetch: old.mirror.fetch,
			apart: old.mirror.fetch && old.mirror.apart || vault.Settings(old.settings).IsLarge()}
	}
	s.settings, s.seed, s.goodTurn = old.settings, old.seed, old.goodTurn
	s.fresh, s.dirty, s.answered = old.fresh, old.dirty, old.answered
	s.joinLocked()
	if old.user.defaultConversation == old.conversation && to.defaultConversation == nil {
		to.defaultConversation = c
	}
	old.conversation.removeLocked()
	if old.process != nil {
		c.process, c.started = old.process, old.started
		old.process = nil
		delete(p.running, old.conversation)
		p.running[c] = true
		old.user.countLocked(0, -1)
		to.countLocked(0, 1)
	}
	return s
}
