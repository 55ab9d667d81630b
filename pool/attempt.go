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

// attempts are a user's turns that are running for requests of which history is a part. While a turn runs, its
// conversation isn't the one that the history leads to; as soon as the turn is given up it is again, and a request
// for it waits in line. Its methods may be called concurrently.
type attempts struct {
	mu      sync.Mutex // guards running
	running map[api.Digest]*attempt
}

type attempt struct {
	of     *attempts
	digest api.Digest    // of all that the request says
	told   chan struct{} // closed when it is known whether the turn counts
	once   sync.Once
}

// begin notes that the request's turn is running, nil if it finds its conversation anyway.
func (all *attempts) begin(req *api.Request) *attempt {
	if len(req.Messages) == 1 || req.SessionID != "" {
		return nil
	}
	a := &attempt{of: all, digest: req.Digest(), told: make(chan struct{})}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.running == nil {
		all.running = make(map[api.Digest]*attempt)
	}
	all.running[a.digest] = a
	return a
}

// tell says that by now the conversation is found by what was said in it. It may be called more than once, and on nil.
func (a *attempt) tell() {
	if a == nil {
		return
	}
	a.once.Do(func() {
		a.of.mu.Lock()
		defer a.of.mu.Unlock()
		if a.of.running[a.digest] == a {
			delete(a.of.running, a.digest)
		}
		close(a.told)
	})
}

// await waits a moment for news of a turn that is running for the very same request.
func (all *attempts) await(ctx context.Context, req *api.Request) {
	if len(req.Messages) == 1 || req.SessionID != "" {
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
	case <-a.told:
	case <-ctx.Done():
	case <-time.After(attemptPatience): // another client asks the same
	}
}
