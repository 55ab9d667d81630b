package pool

import (
	"context"
	"crypto/subtle"
	"errors"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/seal"
)

// releaseTimeout bounds one attempt to give a user up. The Ownership remembers what it could not carry out.
const releaseTimeout = 5 * time.Second

// user is one identity with its conversations. All fields are guarded by Pool.mu.
type user struct {
	id     string
	digest [32]byte // of the whole token: the id is only a part of it

	conversations map[string]*conversation // by session id
	standard      *conversation            // for requests with neither session id nor history

	space Space // what the files took when they were within the quota last
	wrote bool  // had a turn since the last look

	requests  int           // entered and not yet left
	processes int           // slots taken for this user
	owned     bool          // admitted and not yet released
	leaving   bool          // to be released as soon as nothing of it is under way
	releasing chan struct{} // not nil while the user is being given up; closed when that is done

	keys      *seal.Keys      // for the archive; nil before the first recall
	recall    *recall         // nil before the first request since the user became this instance's
	inherited map[string]bool // ids of users whose conversations became this one's

	mirroring int           // conversations that are being saved
	mirrored  chan struct{} // closed when none is any more
}

// enter lets a request in, so that from here on its user can't be given up, and makes sure that the user is this
// instance's. It waits while the user is being given up: reaping and claiming can't cross.
func (p *Pool) enter(ctx context.Context, req *api.Request, outage bool) (*user, error) {
	u, err := p.joinOwned(ctx, req, outage)
	if err != nil {
		return nil, err
	}
	err = p.recall(ctx, u, req)
	if former := req.Former(); err == nil && former != nil {
		err = p.inherit(ctx, u, req, former, outage)
	}
	if err != nil {
		p.leave(u)
		return nil, err
	}
	return u, nil
}

// joinOwned counts the request in if its user is this instance's.
func (p *Pool) joinOwned(ctx context.Context, req *api.Request, outage bool) (*user, error) {
	u, err := p.join(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := p.owner.Admit(ctx, u.id, outage); err != nil {
		p.leave(u)
		return nil, err
	}
	p.mu.Lock()
	u.owned = true
	p.mu.Unlock()
	return u, nil
}

// join counts the request in.
func (p *Pool) join(ctx context.Context, req *api.Request) (*user, error) {
	id, digest := req.UserID(), req.UserDigest()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.draining {
			return nil, ErrDraining
		}
		u := p.users[id]
		if u == nil {
			u = &user{id: id, digest: digest, conversations: make(map[string]*conversation)}
			p.users[id] = u
		}
		if subtle.ConstantTimeCompare(u.digest[:], digest[:]) != 1 {
			return nil, errors.New("pool: two tokens share a user id")
		}
		busy := u.releasing
		if busy == nil && !u.leaving {
			u.requests++
			return u, nil
		}
		if busy == nil {
			return nil, ErrDraining // its turns are ending; the caller comes back
		}
		p.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// leave ends what enter began.
func (p *Pool) leave(u *user) {
	p.mu.Lock()
	u.requests--
	last := u.requests == 0
	p.mu.Unlock()
	if last {
		p.settleUser(u.id)
	}
}

// settleUser gives a user up if nothing of it is left here: no request, no process. The order is stop, confirm dead,
// release.
func (p *Pool) settleUser(id string) {
	p.mu.Lock()
	u := p.users[id]
	if u == nil || u.requests > 0 || u.processes > 0 || u.releasing != nil {
		p.empty.Broadcast()
		p.mu.Unlock()
		return
	}
	if !u.owned {
		u.leaving = false
		p.forgetLocked(u)
		p.mu.Unlock()
		return
	}
	done := make(chan struct{})
	u.releasing = done
	keepHome := !p.draining && !u.leaving
	p.mu.Unlock()

	if !p.awaitMirrored(u) {
		p.opts.Logger.Warn("a user is given up before its last turn is mirrored", "user", api.ShortUser(id))
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if err := p.owner.Release(ctx, id, keepHome); err != nil {
		p.opts.Logger.Warn("release failed, will be retried", "user", api.ShortUser(id), "error", err)
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	u.releasing, u.owned, u.leaving, u.recall, u.inherited = nil, false, false, nil, nil
	close(done)
	p.forgetLocked(u)
	signal(p.changed)
}

// forgetLocked drops a user who has nothing here any more, not even a conversation to resume.
func (p *Pool) forgetLocked(u *user) {
	if len(u.conversations) == 0 && u.requests == 0 && u.releasing == nil {
		delete(p.users, u.id)
	}
	p.empty.Broadcast()
}
