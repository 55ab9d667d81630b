package pool

import (
	"context"
	"time"

	"claudepool/pool/api"
)

// releaseTimeout bounds one attempt to give a user up. The Ownership remembers what it could not carry out.
const releaseTimeout = 5 * time.Second

// forgottenAtOnce is how many conversations go in one holding of the pool's lock.
const forgottenAtOnce = 100

// leave ends what enter began.
func (u *user) leave() {
	p := u.pool
	p.mu.Lock()
	u.countLocked(-1, 0)
	last := u.requests == 0
	p.mu.Unlock()
	if last {
		u.releaseIfUnused()
	}
}

// releaseIfUnused gives the user up if nothing of it is left here: no request, no process. The order is stop, confirm
// dead, release.
func (u *user) releaseIfUnused() {
	keepHome, ok := u.beginRelease()
	if !ok {
		return
	}
	p, id := u.pool, u.id
	if !u.awaitMirrored() {
		p.opts.Logger.Warn("a user is given up before its last turn is mirrored", "user", api.ShortUser(id))
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if err := p.owner.Release(ctx, id, keepHome); err != nil {
		p.opts.Logger.Warn("release failed, will be retried", "user", api.ShortUser(id), "error", err)
	}
	u.endRelease()
	signal(p.changed)
}

// beginRelease reports whether the user is to be given up now. Requests wait from here on.
func (u *user) beginRelease() (keepHome, ok bool) {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users[u.id] != u || u.requests > 0 || u.processes > 0 || u.releasing != nil {
		return false, false
	}
	if !u.owned {
		u.leaving = false
		u.forgetLocked()
		return false, false
	}
	u.releasing = make(chan struct{})
	return !p.draining && !u.leaving && u.workspaces > 0, true
}

func (u *user) endRelease() {
	p := u.pool
	for u.forgetSome() {
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	close(u.releasing)
	u.releasing, u.owned, u.leaving, u.recalled, u.formerIDs = nil, false, false, nil, nil
	u.forgetLocked()
}

// forgetSome forgets some of the conversations that come back with the user, from the archive. It reports whether there
// may be more.
func (u *user) forgetSome() bool {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range u.conversations {
		if n == forgottenAtOnce {
			return true
		}
		if c.dir == nil && c.mirror.fetch && !c.heldLocked() {
			c.removeLocked()
			n++
		}
	}
	return false
}

// disown keeps the user from being given up: what is not confirmed dead may still be there.
func (u *user) disown() {
	u.pool.mu.Lock()
	defer u.pool.mu.Unlock()
	u.owned = false
}

// forgetLocked drops a user who has nothing here any more, not even a conversation to resume.
func (u *user) forgetLocked() {
	p := u.pool
	if len(u.conversations) == 0 && u.requests == 0 && u.releasing == nil && !u.owned { // else it is about to be released
		delete(p.users, u.id)
		p.space = p.space.Minus(u.space)
	}
	p.empty.Broadcast()
}
