package pool

import (
	"container/list"
	"maps"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/vault"
	"claudepool/pool/workspace"
)

// conversation is one of a user's conversations. It outlives its process: a conversation whose process was reaped is
// resumed from its transcript. What isn't here is in its slot.
type conversation struct {
	pool        *Pool
	user        *user
	named       bool          // a client chose the id
	incarnation string        // unique: after a deletion another one may begin under the same id
	title       string        // the beginning of its first text, in one line; empty: it isn't known
	created     time.Time     // zero: it isn't known
	abandoned   chan struct{} // closed when the pool closes without its process's end
	saver       saver         // has a lock of its own

	// Guarded by the table's lock.
	slot        *slot        // nil while somebody has it; for slot.go alone
	waiters     []chan *slot // first come, first served; buffered by one: nil sends away
	place       place        // where it stands while nobody has its slot
	lastUsed    time.Time
	unused      cli.Idle // its process, as who used it last has left it
	freezeTried bool     // freezing its process was tried since its last use

	// Guarded by the table's lock. While somebody has the slot, nobody else changes it, and who has it may read it
	// without the lock.
	id           string            // the CLI's session id; until the first process of an unnamed one it may still change
	process      *cli.Process      // nil while there is none
	started      time.Time         // when the process became the conversation's
	dir          *workspace.Folder // nil until the first process
	digests      api.Digests       // of what was said so far
	digestsValid bool              // they are right: no turn is changing them
	spoken       bool              // a turn has gone well: it has more than the history that it began with
	removed      bool              // deleted, or moved to another user: not to be used by who waited for it

	mirror mirror // guarded by the table's lock; see there
}

// place is where a conversation stands in its table's lines, and with a process in its user's.
type place struct {
	all, user *list.Element
	files     bool // atRest counts it
}

// mirror is what the archive has of a conversation, as far as known here. Guarded by the table's lock.
type mirror struct {
	version int64           // 0 is none
	usedAt  time.Time       // when what stands there was said
	unsaved *vault.Manifest // of the newest turn, until the archive has that
	off     bool            // another instance goes on with it, or it is too large
	fresh   bool            // the archive has all that was said in good turns
	fetch   bool            // the archive's transcript has to replace what is here; for who has the slot to change
	apart   bool            // the archive has the settings in the body: while that is to be fetched they aren't here
}

// newConversation makes a conversation that the caller holds, and that isn't known yet.
func (u *user) newConversation(id, incarnation string, digests api.Digests) *slot {
	c := &conversation{pool: u.pool, id: id, user: u, incarnation: incarnation, abandoned: make(chan struct{}),
		digests: digests, digestsValid: true, lastUsed: time.Now()}
	return &slot{conversation: c}
}

// lookUp returns the user's conversation of that id, without one the default one, or nil.
func (u *user) lookUp(id string) *conversation {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	if id == "" {
		return u.defaultConversation
	}
	return u.conversations[id]
}

// known returns the user's conversations by their ids.
func (u *user) known() map[string]*conversation {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	return maps.Clone(u.conversations)
}

// look tells what others may know of the conversation now.
func (c *conversation) look() glance {
	c.user.table.mu.Lock()
	defer c.user.table.mu.Unlock()
	g := glance{id: c.id, process: c.process, dir: c.dir, lastUsed: c.lastUsed, running: c.heldLocked(),
		goodTurn: c.goodTurnLocked()}
	g.isListed = !c.removed && (c.spoken || g.goodTurn != "" || g.running && (c.named || c.process != nil))
	if c.mirror.fetch {
		g.archived = c.mirror.version
		if at := c.mirror.usedAt; at.After(time.Time{}) { // else it is one that has just become this user's
			g.lastUsed = at
		}
	}
	return g
}

// folders returns those of the user's conversations, and whether requests may be filling them.
func (u *user) folders() (all []*workspace.Folder, busy bool) {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	for _, c := range u.conversations {
		if c.dir != nil {
			all = append(all, c.dir)
		}
	}
	return all, u.requests > 0
}

// begin makes a conversation the user's and puts its slot down. It returns the one that is there already under its id,
// or as the default one, if it is to be that.
func (u *user) begin(s *slot, isDefault bool) *conversation {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	if c := u.conversations[s.id]; c != nil {
		return c
	}
	if isDefault && u.defaultConversation != nil {
		return u.defaultConversation
	}
	s.joinLocked()
	s.putBackLocked()
	if isDefault {
		u.defaultConversation = s.conversation
	}
	return s.conversation
}

// joinLocked makes the conversation known as one of its user's.
func (c *conversation) joinLocked() {
	c.user.conversations[c.id] = c
	c.setDigestsLocked(c.digests, c.digestsValid)
}

// recognize finds the conversation in which exactly that was said which one of the digests stands for. The first one
// that leads anywhere counts, and if it leads to several conversations, nobody knows which is meant.
func (u *user) recognize(digests []api.Digest) *conversation {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	for _, d := range digests {
		if known := u.byDigest[d]; len(known) > 0 { // none is known to those who say nothing was said
			return closestLocked(known)
		}
	}
	return nil
}

// closestLocked is, of conversations by the ways in which what was said before leads there, the one with the fullest
// way, nil if several have it. Those that have nothing but the history they began with are all alike: one of them is as
// good as another, if there is none that has more.
func closestLocked(known map[*conversation]int) (found *conversation) {
	best, several := 0, false
	for c, way := range known {
		switch {
		case found == nil || c.spoken && !found.spoken || c.spoken == found.spoken && way < best:
			found, best, several = c, way, false
		case c.spoken && found.spoken && way == best:
			several = true
		}
	}
	if several {
		return nil
	}
	return found
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
	for way, d := range digests {
		if d == (api.Digest{}) {
			continue
		}
		if known[d] == nil {
			known[d] = make(map[*conversation]int, 1)
		}
		if _, fuller := known[d][c]; !fuller {
			known[d][c] = way
		}
	}
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

// removeLocked takes a conversation from its user. Its files are still to be removed.
func (c *conversation) removeLocked() {
	if c.dir != nil && !c.removed {
		c.user.workspaces--
	}
	c.removed = true
	c.setDigestsLocked(c.digests, c.digestsValid)
	c.leaveListsLocked()
	if c.user.defaultConversation == c {
		c.user.defaultConversation = nil
	}
	delete(c.user.conversations, c.id)
}

// removeUnused takes a conversation from its user that the archive had, unless it is in use. What is not said to be
// deleted goes only if it was to be fetched.
func (c *conversation) removeUnused(isDeleted bool) bool {
	t := c.user.table
	t.mu.Lock()
	defer t.mu.Unlock()
	isMissing := isDeleted && c.mirror.version > 0 || !isDeleted && c.mirror.fetch
	if !isMissing || c.removed || c.heldLocked() || c.process != nil || c.saver.busy.Load() {
		return false
	}
	c.removeLocked()
	return true
}

// removeOldest takes from a user with too many conversations the one that was used longest ago among those the archive
// has and nobody uses, and returns it. It returns nil where there is none.
func (u *user) removeOldest() (oldest *conversation) {
	t := u.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(u.conversations) <= knownWithoutFiles*t.opts.MaxConversations {
		return nil
	}
	for _, c := range u.conversations {
		isUsed := c.mirror.version == 0 || c.heldLocked() || c.process != nil || c.saver.busy.Load()
		if !isUsed && (oldest == nil || c.mirror.usedAt.Before(oldest.mirror.usedAt)) {
			oldest = c
		}
	}
	if oldest != nil {
		oldest.removeLocked()
	}
	return oldest
}

// addArchived adds what the archive has of a conversation to the user's. s is that, with its mirror.
func (u *user) addArchived(s *slot, isDefault bool) {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	c := u.conversations[s.id]
	switch {
	case c == nil:
	case c.incarnation == s.incarnation && c.mirror.version >= s.mirror.version || c.saver.busy.Load():
		return
	case c.heldLocked() || c.process != nil:
		c.mirror.off = true // it was begun here while the archive could not be asked
		return
	default:
		isDefault = isDefault || u.defaultConversation == c
		s.setDirLocked(c.dir)
		c.removeLocked()
	}
	s.joinLocked()
	if isDefault {
		u.defaultConversation = s.conversation
	}
	s.putBackLocked()
}

// compare tells whether the conversation is the default one, and what there is of another user's under the same id.
// isFree says that this is nothing, or an unused copy.
func (c *conversation) compare(other *user) (isDefault bool, there mirror, isFree bool) {
	c.user.table.mu.Lock()
	defer c.user.table.mu.Unlock()
	isDefault = c.user.defaultConversation == c
	known := other.conversations[c.id]
	if known == nil {
		return isDefault, mirror{}, true
	}
	return isDefault, known.mirror, known.unusedCopyLocked(c)
}

// unusedCopyLocked reports whether c is what the archive has of a copy of the other, and nothing more.
func (c *conversation) unusedCopyLocked(of *conversation) bool {
	return c.incarnation == of.incarnation && c.mirror.fetch && c.dir == nil && c.process == nil && !c.heldLocked()
}
