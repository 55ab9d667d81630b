package pool

import (
	"context"
	"maps"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/seal"
	"claudepool/pool/vault"
)

// A conversation outlives its instance by what stands in the archive: after each good turn its transcript is mirrored
// there, and the instance that serves its user next goes on from it. The workspace's other files stay behind.

// mirrorWait is how long giving up a user waits for what is being mirrored.
const mirrorWait = 2 * time.Second

// mirror is what a conversation has of itself in the archive. Guarded by Pool.mu.
type mirror struct {
	version  int64           // the archive's, as far as known here; 0 is none
	next     *vault.Manifest // to be saved, when what is being saved has been
	busy     bool
	stop     context.CancelFunc // ends what is being saved; nil before it is
	done     chan struct{}      // closed when nothing is being saved any more
	off      bool               // another instance goes on with it, or it is too large
	deleting bool               // to be deleted
	fresh    bool               // the archive has all that was said in good turns
	fetch    bool               // the archive's transcript has to replace what is here; for who has the slot to change
	apart    bool               // the archive has the settings in the body: while that is to be fetched they aren't here
}

// askOnce returns what the archive is asked about the user, and whether it is to be asked now.
func (u *user) askOnce(req *api.Request) (r *recall, isNew bool) {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.recalled != nil {
		return u.recalled, false
	}
	u.recalled = &recall{done: make(chan struct{})}
	if u.keys == nil {
		u.keys = seal.Derive(req.Token())
	}
	return u.recalled, true
}

// dropRecall has the archive asked again about the user, unless that has been done since r; nil is any.
func (u *user) dropRecall(r *recall) {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if r == nil || u.recalled == r {
		u.recalled = nil
	}
}

// conversationsOf returns the user's conversations by their ids.
func (u *user) conversationsOf() map[string]*conversation {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(u.conversations)
}

// removeUnused takes a conversation from its user that the archive had, unless it is in use. What is not said to be
// deleted goes only if it was to be fetched.
func (c *conversation) removeUnused(isDeleted bool) bool {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	isMissing := isDeleted && c.mirror.version > 0 || !isDeleted && c.mirror.fetch
	if !isMissing || c.removed || c.heldLocked() || c.process != nil || c.mirror.busy {
		return false
	}
	c.removeLocked()
	return true
}

// addArchived adds what the archive has of a conversation to the user's.
func (u *user) addArchived(kept vault.Conversation) {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	c := u.conversations[kept.Session]
	switch {
	case c == nil:
	case c.incarnation == kept.Incarnation && c.mirror.version >= kept.Version || c.mirror.busy:
		return
	case c.heldLocked() || c.process != nil:
		c.mirror.off = true // it was begun here while the archive could not be asked
		return
	}
	s := u.newConversation(kept.Session, kept.Incarnation, kept.Digests)
	s.spoken, s.named = true, kept.Named
	s.mirror = mirror{version: kept.Version, fresh: true, fetch: true, apart: kept.SettingsInBody}
	s.settings, s.goodTurn, s.answered = cli.Settings(kept.Settings), kept.GoodTurn, true
	isDefault := kept.Default || c != nil && u.defaultConversation == c
	if c != nil {
		s.setDirLocked(c.dir)
		c.removeLocked()
	}
	s.joinLocked()
	if isDefault {
		u.defaultConversation = s.conversation
	}
	s.restLocked()
}

// version is the archive's of the conversation.
func (s *slot) version() int64 {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.mirror.version
}

// fetched says that the archive's transcript is here.
func (s *slot) fetched() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.mirror.fetch = false
}

// save has the conversation, after a good turn, mirrored in the background. The newest turn wins.
func (s *slot) save() {
	p := s.pool
	if p.vault == nil || s.goodTurn == "" || s.user.isUnproven() { // what is kept proves its user later
		return
	}
	m := manifestOf(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	u, state := s.user, &s.conversation.mirror
	if state.off || state.deleting || u.keys == nil {
		return
	}
	m.Default = u.defaultConversation == s.conversation
	state.next, state.fresh = m, false
	if state.busy {
		return
	}
	state.busy, state.done = true, make(chan struct{})
	if u.mirroring == 0 {
		u.mirrored = make(chan struct{})
	}
	u.mirroring++
	c, dir, done := s.conversation, s.dir, state.done
	p.work.Go(func() {
		c.mirrorAll(dir)
		close(done)
		u.hasMirrored()
	})
}

func (u *user) hasMirrored() {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.mirroring--; u.mirroring == 0 {
		close(u.mirrored)
	}
}

// nextToMirror is what is to be saved now, and in which version. Nil ends the saving. ctx ends when it isn't to be
// saved any more; that the pool closes is no reason.
func (c *conversation) nextToMirror() (ctx context.Context, next *vault.Manifest, version int64) {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	m := &c.mirror
	next, m.next = m.next, nil
	m.busy = next != nil
	ctx, m.stop = context.WithCancel(context.WithoutCancel(p.life))
	return ctx, next, m.version + 1
}

// setVersion notes what the archive has, and whether that is what was said last.
func (c *conversation) setVersion(version int64, isNewest, isApart bool) {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	c.mirror.version, c.mirror.fresh, c.mirror.apart = version, isNewest && c.mirror.next == nil, isApart
}

// keepForRetry has the same saved again if nothing newer is to be, unless the user is somebody else's by now: who has
// gone on with the conversation there must not be overtaken.
func (c *conversation) keepForRetry(m *vault.Manifest) {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !c.user.owned || c.mirror.deleting || p.life.Err() != nil:
		c.mirror.next = nil
	case c.mirror.next == nil:
		c.mirror.next = m
	}
}

// setMirroring says whether something is still under way for a conversation that isn't mirrored any more.
func (c *conversation) setMirroring(busy bool) {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	c.mirror.busy, c.mirror.off, c.mirror.next = busy, true, nil
}

// markDeleting says that nothing more of the conversation is to be saved. If something is being saved now, which it
// cuts short, done is closed when that has ended.
func (s *slot) markDeleting() (busy bool, done chan struct{}) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	m := &s.conversation.mirror
	m.deleting, m.next = true, nil
	if m.busy && m.stop != nil {
		m.stop()
	}
	return m.busy, m.done
}

// unmarkDeleting takes that back, and reports whether the archive lacks something that is here.
func (s *slot) unmarkDeleting() bool {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.mirror.deleting = false
	return s.dir != nil && !s.mirror.fetch && !s.mirror.fresh
}

// unarchived says that the archive has nothing of the conversation any more: what it gets next is the first version.
func (s *slot) unarchived() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.mirror = mirror{}
}

// awaitMirrored waits a while for what is being saved of the user's conversations, so that the next owner finds it. It
// reports whether nothing is being saved any more.
func (u *user) awaitMirrored() bool {
	p := u.pool
	p.mu.Lock()
	busy, done := u.mirroring > 0, u.mirrored
	p.mu.Unlock()
	if !busy {
		return true
	}
	select {
	case <-done:
		return true
	case <-time.After(mirrorWait):
		return false
	}
}

// copying is what it takes to make an archived conversation another user's: the version there is, and the one to make.
type copying struct {
	manifest vault.Manifest
	from, to int64
	apart    bool // the settings are in the archive alone
}

// planCopy says how what the archive has of the held conversation is to be copied for another user, and whether it is.
func (s *slot) planCopy(to *user) (plan copying, moves bool) {
	p := s.pool
	plan = copying{manifest: *manifestOf(s), to: 1}
	p.mu.Lock()
	defer p.mu.Unlock()
	plan.from, plan.apart = s.mirror.version, s.mirror.fetch && s.mirror.apart
	plan.manifest.Default = s.user.defaultConversation == s.conversation
	there := to.conversations[s.id]
	if there != nil {
		plan.to = there.mirror.version + 1
	}
	stays := plan.from == 0 || !s.mirror.fresh || s.mirror.off || there != nil && !there.unusedCopyLocked(s.conversation)
	return plan, !stays
}

// unusedCopyLocked reports whether c is what the archive has of a copy of the other, and nothing more.
func (c *conversation) unusedCopyLocked(of *conversation) bool {
	return c.incarnation == of.incarnation && c.mirror.fetch && c.dir == nil && c.process == nil && !c.heldLocked()
}
