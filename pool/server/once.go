package server

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"claudepool/pool/api"
)

const (
	// maxSeen is how many request ids are remembered, so that none is run twice: more than can come while a hop token is
	// valid.
	maxSeen = 100_000
	// seenFor is how long they are remembered at least, should there be fewer: longer than a hop token is valid, and than
	// any front tries again.
	seenFor = 10 * time.Minute
)

// seen tells of request ids, by what is left of their digests, whether what they ask for has begun.
type seen map[[16]byte]bool

// dedup sees to it that a turn is run once under each request id, also when the same hop comes twice at a time.
type dedup struct {
	mu         sync.Mutex // guards the following
	young, old seen       // young takes the place of old when it is full, or old enough
	since      time.Time  // when young was begun
	now        func() time.Time
	max        int // of both together
}

func newDedup() *dedup {
	return &dedup{young: seen{}, now: time.Now, max: maxSeen, since: time.Now()}
}

func keyOf(id string) [16]byte {
	digest := sha256.Sum256([]byte(id))
	return [16]byte(digest[:])
}

func (o *dedup) findLocked(key [16]byte) (begun, taken bool) {
	if begun, taken = o.young[key]; taken {
		return begun, true
	}
	begun, taken = o.old[key]
	return begun, taken
}

// setLocked remembers an id as of now.
func (o *dedup) setLocked(key [16]byte, begun bool) {
	if now := o.now(); len(o.young) >= o.max/2 || now.Sub(o.since) > seenFor {
		o.young, o.old, o.since = seen{}, o.young, now
	}
	delete(o.old, key)
	o.young[key] = begun
}

// claim takes the id, which has to be given back at the end. While another request waits under the same
// id nothing has been run yet: that one may be of a connection that broke, so the front may try again.
func (o *dedup) claim(id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	begun, taken := o.findLocked(keyOf(id))
	switch {
	case begun:
		return &api.Error{Status: http.StatusConflict, Type: "api_error", Message: "this request has been accepted before"}
	case taken:
		return notStarted{api.Unavailable(time.Second, "this request is waiting already")}
	}
	o.setLocked(keyOf(id), false)
	return nil
}

// begin says that what the request asks for is done from now on.
func (o *dedup) begin(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.setLocked(keyOf(id), true)
}

// release ends the claim. If nothing has begun under the id, it may be claimed again.
func (o *dedup) release(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := keyOf(id)
	if begun, _ := o.findLocked(key); !begun {
		delete(o.young, key)
		delete(o.old, key)
	}
}
