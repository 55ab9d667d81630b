package pool

import (
	"context"
	"sync"
	"time"

	"claudepool/pool/api"
)

// attemptPatience is how long a request waits for news of the client that has sent the same one before: a client whose
// connection broke sends again at once, before anybody here can know that it has gone.
const attemptPatience = 500 * time.Millisecond

// attempt is a turn that is running for a request of which history is a part. Until it has ended its conversation isn't the
// one that its history leads to, but the same request that comes again is meant for it, if the first one's client has gone.
type attempt struct {
	digest    api.Digest    // of all that the request says
	abandoned chan struct{} // closed when the client has gone
	over      chan struct{} // closed when the conversation is again what it was, or has gone on
	ending    sync.Once
}

// begin notes that the request's turn is running. The end of ctx says that its client has gone.
func (s *slot) begin(ctx context.Context, req *api.Request) *attempt {
	if len(req.Messages) == 1 || req.SessionID != "" {
		return nil // which lead to the conversation anyway
	}
	a := &attempt{digest: req.Digest(), abandoned: make(chan struct{}), over: make(chan struct{})}
	context.AfterFunc(ctx, func() { close(a.abandoned) })
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.user.attempts[a.digest] = a
	return a
}

// endAttempt says that the turn is over and its conversation at rest.
func (s *slot) endAttempt(a *attempt) {
	if a == nil {
		return
	}
	a.ending.Do(func() {
		s.pool.mu.Lock()
		defer s.pool.mu.Unlock()
		if s.user.attempts[a.digest] == a {
			delete(s.user.attempts, a.digest)
		}
		close(a.over)
	})
}

// awaitGivenUp returns when no turn is running, or being given up, for the same request from a client that has gone.
func (u *user) awaitGivenUp(ctx context.Context, req *api.Request) {
	if len(req.Messages) == 1 || req.SessionID != "" {
		return
	}
	digest := req.Digest()
	u.pool.mu.Lock()
	a := u.attempts[digest]
	u.pool.mu.Unlock()
	if a == nil {
		return
	}
	select {
	case <-a.abandoned:
	case <-a.over:
	case <-ctx.Done():
	case <-time.After(attemptPatience):
		return // another client asks the same
	}
	select {
	case <-a.over:
	case <-ctx.Done():
	}
}
