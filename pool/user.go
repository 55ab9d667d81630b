package pool

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/seal"
	"claudepool/pool/workspace"
)

// longestLeaving is how long a user who is to be given up is served on while its turns overlap, or there would be no
// end.
const longestLeaving = 30 * time.Second

var errTwoTokens = errors.New("pool: two tokens share a user id")

// user is one identity with its conversations. All fields are guarded by Pool.mu, but for the first ones, which stay.
type user struct {
	pool   *Pool
	id     string
	digest [32]byte // of the whole token: the id is only a part of it

	standing standing // of its credential; needs no lock
	attempts attempts // has a lock of its own

	conversations       map[string]*conversation              // by session id
	byDigest            map[api.Digest]map[*conversation]bool // those whose digests are right, by each of them
	defaultConversation *conversation                         // for requests with neither session id nor history
	idle                line                                  // those with a process that nobody uses

	workspaces int // conversations that have one

	space workspace.Space // what the files took when they were measured last

	requests     int  // entered and not yet left
	unadmitted   int  // those of them that wait for the API's word on the credential
	processes    int  // slots taken for this user
	owned        bool // admitted and not yet released
	leaving      bool // to be released as soon as nothing of it is under way
	leavingSince time.Time
	releasing    chan struct{} // not nil while the user is being given up; closed when that is done

	keys      *seal.Keys // for the archive; nil before the first recall
	recalled  *recall    // nil before the first request since the user became this instance's
	formerIDs []string   // ids of users whose conversations became this one's, the latest

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
	err = u.recall(ctx, req)
	if former := req.Former(); err == nil && former != nil {
		err = u.takeOver(ctx, req, former, outage)
	}
	if err != nil {
		u.leave()
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
		u.leave()
		return nil, err
	}
	if p.owner.Proven(u.id) {
		u.standing.proven.Store(true)
	}
	p.mu.Lock()
	u.owned = true
	p.mu.Unlock()
	return u, nil
}

// join counts the request in.
func (p *Pool) join(ctx context.Context, req *api.Request) (*user, error) {
	id, digest := req.UserID(), req.UserDigest()
	for {
		u, busy, err := p.tryJoin(id, digest)
		if busy == nil {
			return u, err
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryJoin counts a request in unless its user is being given up; busy is closed when that is done.
func (p *Pool) tryJoin(id string, digest [32]byte) (u *user, busy chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		return nil, nil, ErrDraining
	}
	if u = p.users[id]; u == nil {
		u = &user{pool: p, id: id, digest: digest, conversations: make(map[string]*conversation),
			byDigest: make(map[api.Digest]map[*conversation]bool)}
		p.users[id] = u
	}
	switch {
	case subtle.ConstantTimeCompare(u.digest[:], digest[:]) != 1:
		return nil, nil, errTwoTokens
	case u.releasing != nil:
		return nil, u.releasing, nil
	case u.leaving && (u.requests == 0 || time.Since(u.leavingSince) > longestLeaving):
		return nil, nil, ErrDraining // its processes are ending; the caller comes back
	}
	u.countLocked(1, 0)
	return u, nil, nil
}

// has reports whether one of the user's conversations has the id.
func (u *user) has(session string) bool {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return u.conversations[session] != nil
}

// addDue has the users measured whose files may have changed since they were added last and measured: who had a turn,
// and if asked for, who has a process that isn't frozen.
func (p *Pool) addDue(due *workspace.Meter[*user], running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for u := range p.toMeasure {
		if u.addDueLocked(due) && u.requests == 0 {
			delete(p.toMeasure, u)
		}
	}
	if !running {
		return
	}
	for c := range p.running {
		if !c.process.Frozen() {
			c.user.addDueLocked(due)
		}
	}
}

// addDueLocked adds the user with its workspaces, unless it is there.
func (u *user) addDueLocked(due *workspace.Meter[*user]) bool {
	if due.IsDue(u) {
		return false
	}
	var folders []*workspace.Folder
	for _, c := range u.conversations {
		if c.dir != nil {
			folders = append(folders, c.dir)
		}
	}
	due.Add(u, folders)
	return true
}

// measured is what the user's files took when they were measured last.
func (u *user) measured() workspace.Space {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return u.space
}

// setMeasured notes what the user's files take, and returns what they took before.
func (u *user) setMeasured(now workspace.Space) (before workspace.Space) {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	before, u.space = u.space, now
	if p.users[u.id] == u { // else it was forgotten meanwhile
		p.space = p.space.Plus(now).Minus(before)
	}
	return before
}

// measured is what all users' files took when they were measured last.
func (p *Pool) measured() workspace.Space {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.space
}

// isUnproven reports whether the API has never accepted the user's credential.
func (u *user) isUnproven() bool { return !u.standing.proven.Load() }

// isHeldBy reports whether the slots are those of all the user's conversations, or of that of one session. Turns that
// ended while they were waited for may have begun others, and who held one before may have taken its conversation away.
func (u *user) isHeldBy(held []*slot, session string) bool {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(u.conversations)
	if session != "" {
		n = 0
		if u.conversations[session] != nil {
			n = 1
		}
	}
	return len(held) == n && !slices.ContainsFunc(held, func(s *slot) bool { return s.removed })
}

// hasTakenOver reports whether the former user's conversations are this one's already and nothing of that one is here.
func (u *user) hasTakenOver(former string) bool {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	past := p.users[former]
	return slices.Contains(u.formerIDs, former) && (past == nil || !past.owned && past.releasing == nil)
}
