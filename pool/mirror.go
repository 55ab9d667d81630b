package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"claudepool/pool/vault"
)

// A conversation outlives its instance by what stands in the archive: after each good turn its transcript is mirrored
// there, and the instance that serves its user next goes on from it. The workspace's other files stay behind.

// mirrorWait is how long giving up a user waits for what is being mirrored.
const mirrorWait = 2 * time.Second

// saver is what is to be saved of a conversation. Its methods may be called concurrently.
type saver struct {
	busy atomic.Bool // something is being saved; changed under mu

	mu       sync.Mutex         // guards the following
	next     *vault.Manifest    // to be saved, when what is being saved has been
	stop     context.CancelFunc // ends what is being saved; nil before it is
	done     chan struct{}      // closed when nothing is being saved any more
	deleting bool               // to be deleted: nothing more is to be saved
}

// put has a manifest saved next. The newest one wins. If nothing is being saved now, the caller has to see to it, and
// to close done.
func (s *saver) put(m *vault.Manifest) (done chan struct{}, isIdle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deleting {
		return nil, false
	}
	s.next = m
	if s.busy.Load() {
		return nil, false
	}
	s.busy.Store(true)
	s.done = make(chan struct{})
	return s.done, true
}

// take is what is to be saved now. Nil ends the saving. ctx ends when it isn't to be saved any more.
func (s *saver) take(parent context.Context) (ctx context.Context, next *vault.Manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, s.next = s.next, nil
	s.busy.Store(next != nil)
	ctx, s.stop = context.WithCancel(parent)
	return ctx, next
}

// retry has the same saved again if nothing newer is to be.
func (s *saver) retry(m *vault.Manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil && !s.deleting {
		s.next = m
	}
}

// drop has nothing more saved. busy says whether something is still under way.
func (s *saver) drop(busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
	s.busy.Store(busy)
}

// setDeleting says whether the conversation is to be deleted. What is being saved then is cut short; done is closed
// when that has ended.
func (s *saver) setDeleting(deleting bool) (busy bool, done chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleting = deleting
	if !deleting {
		return s.busy.Load(), s.done
	}
	s.next = nil
	if s.busy.Load() && s.stop != nil {
		s.stop()
	}
	return s.busy.Load(), s.done
}

// saves counts a user's conversations that are being saved. Its methods may be called concurrently.
type saves struct {
	mu   sync.Mutex // guards the following
	n    int
	none chan struct{} // closed when there is none any more
}

func (s *saves) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n++; s.n == 1 {
		s.none = make(chan struct{})
	}
}

func (s *saves) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n--; s.n == 0 {
		close(s.none)
	}
}

// await waits a while until there is none. It reports whether that is so.
func (s *saves) await(atMost time.Duration) bool {
	s.mu.Lock()
	busy, none := s.n > 0, s.none
	s.mu.Unlock()
	if !busy {
		return true
	}
	select {
	case <-none:
		return true
	case <-time.After(atMost):
		return false
	}
}

// awaitMirrored waits a while for what is being saved of the user's conversations, so that the next owner finds it. It
// reports whether nothing is being saved any more.
func (u *user) awaitMirrored() bool { return u.saves.await(mirrorWait) }

// save has the conversation, after a good turn, mirrored in the background.
func (s *slot) save() {
	p, u, c, dir := s.pool, s.user, s.conversation, s.dir
	if p.vault == nil || s.goodTurn == "" || u.isUnproven() || u.keys.Load() == nil { // what is kept proves its user later
		return
	}
	m := manifestOf(s)
	if !s.setUnsaved(m) {
		return
	}
	done, isIdle := c.saver.put(m)
	if !isIdle {
		return
	}
	u.saves.begin()
	held := p.owner.Held(u.id)
	p.work.Go(func() {
		c.mirrorAll(dir, held)
		close(done)
		u.saves.end()
	})
}

// keepForRetry has the same saved again if nothing newer is to be, unless the user has moved to another instance: what
// that one has saved since must not be overwritten.
func (c *conversation) keepForRetry(m *vault.Manifest, held context.Context) {
	if held.Err() != nil || !c.user.isOwned() || c.pool.life.Err() != nil {
		c.saver.drop(true)
		return
	}
	c.saver.retry(m)
}

// resumeSaving says that the conversation could not be deleted. What wasn't saved is saved after all.
func (s *slot) resumeSaving() {
	s.saver.setDeleting(false)
	if m := s.mirrored(); s.dir != nil && !m.fetch && !m.fresh {
		s.save()
	}
}

// unarchived says that the archive has nothing of the conversation any more: what it gets next is the first version.
func (s *slot) unarchived() {
	s.saver.setDeleting(false)
	s.setMirror(mirror{})
}
