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

// attempts are a user's turns that are running for requests of which history is a part. Until a turn has ended its
// conversation isn't the one that the history leads to; but the same request that comes again is meant for it, if the client
// of the first one has gone. Its methods may be called concurrently.
type attempts struct {
	mu      sync.Mutex // guards running
	running map[api.Digest]*attempt
}

type attempt struct {
	of        *attempts
	digest    api.Digest    // of all that the request says
	abandoned chan struct{} // closed when the client has gone
	over      chan struct{} // closed when the conversation is again what it was, or has gone on
	ending    sync.Once
}

// matters reports whether a request is one that finds its conversation by its history.
func matters(req *api.Request) bool { return len(req.Messages) > 1 && req.SessionID == "" }

// begin notes that the request's turn is running, nil if it doesn't matter. The end of ctx says that its client has gone.
func (all *attempts) begin(ctx context.Context, req *api.Request) *attempt {
	if !matters(req) {
		return nil
	}
	a := &attempt{of: all, digest: req.Digest(), abandoned: make(chan struct{}), over: make(chan struct{})}
	context.AfterFunc(ctx, func() { close(a.abandoned) })
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.running == nil {
		all.running = make(map[api.Digest]*attempt)
	}
	all.running[a.digest] = a
	return a
}

// end says that the turn is over and its conversation at rest. It may be called more than once, and on nil.
func (a *attempt) end() {
	if a == nil {
		return
	}
	a.ending.Do(func() {
		a.of.mu.Lock()
		defer a.of.mu.Unlock()
		if a.of.running[a.digest] == a {
			delete(a.of.running, a.digest)
		}
		close(a.over)
	})
}

// await returns when no turn is running for the same request, or being given up, whose client has gone.
func (all *attempts) await(ctx context.Context, req *api.Request) {
	if !matters(req) {
		return
	}
	digest := req.Digest()
	all.mu.Lock()
	a := all.running[digest]
	all.mu.Unlock()
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
