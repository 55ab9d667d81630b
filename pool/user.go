package pool

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"claudepool/pool/api"
	"claudepool/pool/seal"
)

// maxLeaving is how long a user who is to be given up is served on while its turns overlap, or there would be no
// end.
const maxLeaving = 30 * time.Second

// releaseTimeout bounds one attempt to give a user up. The Ownership remembers what it could not carry out.
const releaseTimeout = 5 * time.Second

var errTwoTokens = errors.New("pool: two tokens share a user id")

// maxFormerIDs is how many former tokens of a user are remembered; what an older one leads to is looked up again.
const maxFormerIDs = 16

// user is one identity with its conversations. All fields are guarded by the table's lock, but for the first ones.
type user struct {
	pool   *Pool
	table  *table
	id     string
	digest [32]byte // of the whole token: the id is only a part of it

	standing standing            // of its credential; needs no lock
	attempts attempts            // has a lock of its own
	estate   estate              // has one, too
	reads    *semaphore.Weighted // see beginRead

	keys     atomic.Pointer[seal.Keys] // for the archive; nil before the first recall
	recalled atomic.Pointer[recall]    // nil before the first request since the user became this instance's
	saves    saves                     // has a lock of its own

	conversations       map[string]*conversation             // by session id
	byDigest            map[api.Digest]map[*conversation]int // those whose digests are right, by each of them: its way
	defaultConversation *conversation                        // for requests with neither session id nor history
	idle                line                                 // those with a process that nobody uses

	workspaces int // conversations that have one

	requests     int  // entered and not yet left
	unadmitted   int  // those of them that wait for the API's word on the credential
	processes    int  // slots taken for this user
	owned        bool // admitted and not yet released
	leaving      bool // to be released as soon as nothing of it is under way
	leavingSince time.Time
	releasing    chan struct{} // not nil while the user is being given up; closed when that is done

	formerIDs []string // ids of users whose conversations became this one's, the latest
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
		u.accepted()
	}
	u.setOwned(true)
	return u, nil
}

// Hold has the user stay this instance's until it is let go: meanwhile no other instance begins a turn of the user's.
// The error is the Ownership's, ErrDraining or ctx's cause.
func (p *Pool) Hold(ctx context.Context, req *api.Request, outage bool) (letGo func(), err error) {
	_, letGo, err = p.visit(ctx, req, outage)
	return letGo, err
}

// visit counts in a request that asks for no process, until it leaves: its user is no newcomer.
func (p *Pool) visit(ctx context.Context, req *api.Request, outage bool) (u *user, leave func(), err error) {
	if u, err = p.joinOwned(ctx, req, outage); err != nil {
		return nil, nil, err
	}
	u.countUnadmitted(1)
	return u, func() { u.leaveWith(1) }, nil
}

// join counts the request in.
func (p *Pool) join(ctx context.Context, req *api.Request) (*user, error) {
	for {
		u := p.table.find(req.UserID())
		if u == nil {
			u = newUser(p, req)
		}
		u, busy, err := p.table.join(u, req.UserDigest())
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

func newUser(p *Pool, req *api.Request) *user {
	return &user{pool: p, table: p.table, id: req.UserID(), digest: req.UserDigest(),
		reads: semaphore.NewWeighted(1), conversations: make(map[string]*conversation),
		byDigest: make(map[api.Digest]map[*conversation]int)}
}

// pick finds or begins the conversation a request is meant for.
func (u *user) pick(req *api.Request) *conversation {
	readings := req.Readings()
	id := req.SessionID
	isDefault := id == "" && len(req.Messages) == 1 && !req.Stateless
	switch {
	case id != "", isDefault:
		if c := u.lookUp(id); c != nil {
			return c
		}
	case len(req.Messages) > 1:
		if c := u.recognize(digestsOf(readings)); c != nil {
			return c
		}
	}
	if id == "" {
		id = uuid.NewString()
	}
	whole := readings[len(readings)-1]
	s := u.newConversation(id, uuid.NewString(), whole.History.Begin())
	s.named, s.seed, s.fresh = req.SessionID != "", whole, true
	s.title, s.created = req.Title(), s.lastUsed
	return u.begin(s, isDefault)
}

// digestsOf are those by which what the request says was said before can be found: of the ways in which its client may
// have kept the answers, the fullest first.
func digestsOf(readings []api.Reading) (digests []api.Digest) {
	for _, r := range readings {
		digests = append(digests, r.History.Now)
	}
	for _, r := range readings {
		digests = append(digests, r.History.Loose, r.History.Former)
	}
	return digests
}

// leave ends what enter began.
func (u *user) leave() { u.leaveWith(0) }

// leaveWith ends what enter began, of a request that may not have been let in yet.
func (u *user) leaveWith(unadmitted int) {
	if u.countOut(unadmitted) {
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
	for u.forgetSome() {
	}
	u.endRelease()
	signal(p.changed)
}
