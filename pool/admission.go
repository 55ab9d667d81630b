package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"claudepool/pool/api"
	"claudepool/pool/broker"
)

// Anybody can make up a token. What an instance does for one before an API has accepted it has to cost nobody else
// anything: a user is proven by the API's first good answer, which every instance then knows from Redis, or by what the
// archive has. While it is quiet, an unproven user is served like anybody, and the answer to its own turn is the proof.
// When room is short, or many were refused lately, the instance asks the API first, without a process.

const (
	// maxUnjudged is how many unproven users may have processes at a time whose calls the API hasn't answered yet: a
	// course of students who all begin at once.
	maxUnjudged = 20
	// maxRefusals is after how many refused credentials within refusalWindow the API is asked first.
	maxRefusals   = 10
	refusalWindow = time.Minute
	// tellAgain is how often the Ownership is told of a user who is proven again and again.
	tellAgain = time.Hour
	// crowdedRetry is after how long it makes sense for a new user to come again.
	crowdedRetry = 5 * time.Second
)

// standing is what is known of a user's credential.
type standing struct {
	proven, refused atomic.Bool
	// spared says that the user showed a former token of somebody proven: what came with that isn't thrown away, whatever
	// the API says of the present one.
	spared atomic.Bool
	told   atomic.Int64 // when the Ownership was told last that it is proven, in Unix seconds
}

// trial is an unproven user whose requests are under way.
type trial struct {
	admission  *admission
	user       *user
	credential broker.Credential

	requests int  // guarded by admission.mu
	judged   bool // the API has answered; guarded by admission.mu
}

// admission keeps strangers from taking what others need. Its methods may be called concurrently.
type admission struct {
	prove func(context.Context, broker.Credential) (broker.Verdict, error)
	full  func() bool // every place is taken, so that another process costs an idle one
	bare  func() bool // no standby is ready
	asks  singleflight.Group

	mu       sync.Mutex // guards the following
	trials   map[broker.Credential]*trial
	unjudged int         // trials whose calls the API hasn't answered
	refusals []time.Time // the latest, at most maxRefusals
}

func newAdmission(p *Pool) *admission {
	return &admission{
		prove:  p.opts.Broker.Prove,
		full:   func() bool { return p.table.reserved.Load() > int64(p.opts.MaxProcesses) }, // who asks is counted already
		bare:   func() bool { return p.opts.Standby > 0 && p.standbys.Stats().Ready == 0 },
		trials: make(map[broker.Credential]*trial),
	}
}

// admit lets a request of the user go on, if need be after the API has accepted its credential. An unproven user's
// request gets a trial, which has to be ended with it.
func (u *user) admit(ctx context.Context, req *api.Request) (*trial, error) {
	if !u.isUnproven() {
		return nil, nil
	}
	a, credential := u.pool.admission, credentialOf(req)
	connects := len(req.MCPServers) > 0 // which a CLI does before its first call
	if connects || req.IsLarge || a.guarded() || u.standing.refused.Load() {
		u.countUnadmitted(+1)
		verdict, err := a.ask(ctx, u.id, credential)
		u.countUnadmitted(-1)
		switch {
		case err != nil:
			return nil, err
		case verdict == broker.Proven:
			u.prove()
			return nil, nil
		case verdict == broker.Rejected:
			a.refuse()
			return nil, errRefused
		case connects:
			return nil, api.Unavailable(time.Second,
				"the API can't say now whether it accepts this credential, without which no MCP server is started")
		}
	}
	return a.begin(u, credential)
}

var (
	errRefused = api.CredentialRefused()
	errCrowded = api.Overloaded(crowdedRetry, "too many new users at a time")
)

// ask has the API judge a user's credential, once for all requests that wait for it. Where the API can't say, it is
// open.
func (a *admission) ask(ctx context.Context, user string, c broker.Credential) (broker.Verdict, error) {
	asked := a.asks.DoChan(user, func() (any, error) { return a.prove(context.WithoutCancel(ctx), c) })
	select {
	case answer := <-asked:
		if errors.Is(answer.Err, broker.ErrTooManyProofs) {
			return broker.Open, errCrowded
		}
		return answer.Val.(broker.Verdict), nil
	case <-ctx.Done():
		return broker.Open, context.Cause(ctx)
	}
}

// begin begins a trial, or goes on with that of another request of the user. Where the API answers too few of those
// there are, the error says so.
func (a *admission) begin(u *user, c broker.Credential) (*trial, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.trials[c]
	if t == nil {
		if a.unjudged >= maxUnjudged {
			return nil, errCrowded
		}
		t = &trial{admission: a, user: u, credential: c}
		a.trials[c] = t
		a.unjudged++
	}
	t.user = u // after a failure the same user may be another object
	t.requests++
	return t, nil
}

// end ends a request's part in the trial; a nil trial has none. A user whose requests all end before the API has
// answered counts as refused: else hanging up in time would be a way to have processes started.
func (t *trial) end() {
	if t == nil {
		return
	}
	a := t.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.requests--; t.requests > 0 {
		return
	}
	if !t.judged {
		a.judgeLocked(t)
		a.refuseLocked()
	}
	delete(a.trials, t.credential)
}

func (a *admission) judgeLocked(t *trial) {
	if !t.judged {
		t.judged = true
		a.unjudged--
	}
}

// answered takes what an answer of the API says of the credential that the call was made with.
func (a *admission) answered(c broker.Credential, verdict broker.Verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.trials[c]
	if t == nil {
		return
	}
	a.judgeLocked(t)
	switch {
	case verdict == broker.Proven:
		t.user.prove()
	case verdict == broker.Rejected && !t.user.standing.proven.Load() && !t.user.standing.refused.Swap(true):
		a.refuseLocked()
	}
}

// prove says that the API has accepted the user's credential, here at once and to other instances soon.
func (u *user) prove() {
	p, st := u.pool, &u.standing
	u.accepted()
	st.refused.Store(false)
	told, now := st.told.Load(), time.Now().Unix()
	if now-told < int64(tellAgain.Seconds()) || !st.told.CompareAndSwap(told, now) {
		return
	}
	p.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
		defer cancel()
		if err := p.owner.Prove(ctx, u.id); err != nil {
			st.told.Store(0)
			p.opts.Logger.Warn("other instances don't know that a user is proven", "user", api.ShortUser(u.id), "error", err)
		}
	})
}

// isRefused reports whether the API has refused the user's credential and never accepted it.
func (u *user) isRefused() bool {
	st := &u.standing
	return st.refused.Load() && !st.proven.Load() && !st.spared.Load()
}

// refuse counts a credential that was refused.
func (a *admission) refuse() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuseLocked()
}

func (a *admission) refuseLocked() {
	if len(a.refusals) == maxRefusals {
		a.refusals = slices.Delete(a.refusals, 0, 1)
	}
	a.refusals = append(a.refusals, time.Now())
}

// guarded reports whether strangers have to be proven before anything is done for them.
func (a *admission) guarded() bool {
	a.mu.Lock()
	many := a.unjudged >= maxUnjudged || a.refusedLocked(maxRefusals)
	some := a.refusedLocked(1)
	a.mu.Unlock()
	return many || a.full() || some && a.bare()
}

// refusedLocked reports whether so many were refused lately.
func (a *admission) refusedLocked(n int) bool {
	return len(a.refusals) >= n && time.Since(a.refusals[len(a.refusals)-n]) < refusalWindow
}

// dropRefused has nothing stay of a user whose credential was refused and never accepted: the process, the files and
// the conversation of the slot go, and of others that nobody uses.
func (s *slot) dropRefused() {
	u := s.user
	var others []*slot
	if u.isRefused() {
		others = u.takeAtRest()
	}
	for _, other := range others {
		u.pool.work.Go(func() {
			other.drop()
			other.yield()
			u.releaseIfUnused()
		})
	}
	s.leave()
}

// drop takes the conversation from its user with all that it has here, unless that has been done.
func (s *slot) drop() {
	if s.process != nil && s.end() != nil {
		return // it goes with its process, as it was never answered: see yield
	}
	if !s.removed {
		s.remove()
		s.conversation.dropFiles()
	}
}
