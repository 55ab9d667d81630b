package router

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	avoidFor = 10 * time.Second
	// maxFailed is how many dials in a row, one a second, have to fail before an instance whose lease lives is asked to
	// give users up: one alone means that it was busy for a second.
	maxFailed = 5
)

// avoidance is for how long an instance that could not be dialled isn't to be placed on, and taken for gone: all its
// users find it unreachable at the same time.
type avoidance struct {
	until, gone time.Time
	failed      int // times it was dialled again, in vain
}

// Unreachable says that the owner could not be dialled. While its lease lives the user stays with it, and the front
// dials it again every second: it is served there as before as soon as that succeeds. If it goes on to fail, the owner
// itself is asked to give up whoever of its users comes here.
func (r *Router) Unreachable(ctx context.Context, user string, owner Owner) {
	r.known.markStale(user, owner.Instance) // while Redis is away there is no better guess
	if r.markAvoided(owner.Instance) || r.away.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	n, err := r.redis.Exists(ctx, instanceKey(owner.Instance)).Result()
	switch {
	case err != nil:
	case n == 0:
		r.markGone(owner.Instance) // nobody would read the request
	default:
		r.evictIfUnreachable(ctx, owner.Instance, user)
	}
}

// evictIfUnreachable has the user placed elsewhere, if the instance has been unreachable for long.
func (r *Router) evictIfUnreachable(ctx context.Context, instance, user string) {
	r.mu.Lock()
	failed := r.avoid[instance].failed
	r.mu.Unlock()
	if failed >= maxFailed {
		r.requestEviction(ctx, instance, user)
	}
}

// dialAvoided dials the instances that could not be dialled.
func (r *Router) dialAvoided(ctx context.Context) {
	var all sync.WaitGroup
	for _, id := range r.avoided() {
		all.Go(func() { r.dialAgain(ctx, id) })
	}
	all.Wait()
}

func (r *Router) dialAgain(ctx context.Context, instance string) {
	err := r.reach(ctx, instance)
	switch {
	case errors.Is(err, errNoLease):
		r.markGone(instance)
	case errors.Is(err, errUnreached):
		r.mu.Lock()
		defer r.mu.Unlock()
		a := r.avoid[instance]
		r.avoid[instance] = avoidance{time.Now().Add(avoidFor), a.gone, a.failed + 1}
	case err == nil:
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.avoid, instance)
	}
}

// markAvoided avoids an instance from now on, and reports whether it is known to be gone.
func (r *Router) markAvoided(instance string) (gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.avoid[instance]
	r.avoid[instance] = avoidance{time.Now().Add(avoidFor), a.gone, a.failed}
	return time.Now().Before(a.gone)
}

func (r *Router) markGone(instance string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	until := time.Now().Add(avoidFor)
	r.avoid[instance] = avoidance{until: until, gone: until}
}

// avoided lists what is to be avoided. Instances that are gone needn't be named.
func (r *Router) avoided() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	var ids []string
	for id, a := range r.avoid {
		switch {
		case now.After(a.until):
			delete(r.avoid, id)
		case now.After(a.gone):
			ids = append(ids, id)
		}
	}
	return ids
}

func (r *Router) avoids(instance string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.avoid[instance].until)
}
