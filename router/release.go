package router

import (
	"context"
	"maps"
	"slices"
	"time"
)

// release is a user that was given up.
type release struct {
	claim    string
	keepHome bool

	isMade bool          // the following is known
	left   []byte        // for the next owner; nil is nothing
	until  time.Duration // by the lease's clock
}

// Release gives the user up: nothing of it runs here any more. Where Redis can't be told now, later beats do. keepHome
// asks that the user's next claim prefers this instance; without it Redis keeps nothing of the user but a proof.
func (l *Lease) Release(ctx context.Context, user string, keepHome bool) error {
	l.mu.Lock()
	h, held := l.claims[user]
	delete(l.claims, user)
	r := release{claim: h.claim, keepHome: keepHome}
	if held {
		l.released[user] = r
	}
	l.mu.Unlock()
	if !held {
		return nil
	}
	h.lost(ErrNotOwner)
	return l.sendRelease(ctx, user, r)
}

// sendRelease carries one release out.
func (l *Lease) sendRelease(ctx context.Context, user string, r release) error {
	home := int64(0)
	if r.keepHome {
		home = l.opts.HomeTTL.Milliseconds()
	}
	left, ttl := l.handOver(user, r)
	keys := []string{ownerKey(user), homeKey(user), instanceKey(l.id), leftKey(user)}
	err := releaseScript.Run(ctx, l.redis, keys, l.id, r.claim, home, left, ttl.Milliseconds()).Err()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	if l.released[user].claim == r.claim {
		delete(l.released, user)
	}
	return nil
}

// handOver returns what the user's next owner is to find. It is made once for each claim, as all of a time has a bound.
func (l *Lease) handOver(user string, r release) (left []byte, ttl time.Duration) {
	if l.opts.HandOver == nil {
		return nil, 0
	}
	if !r.isMade {
		r.left, ttl = l.opts.HandOver(user, r.claim)
		r.isMade, r.until = true, l.opts.Clock()+ttl
		l.mu.Lock()
		if l.released[user].claim == r.claim {
			l.released[user] = r
		}
		l.mu.Unlock()
	}
	if ttl = r.until - l.opts.Clock(); ttl <= 0 {
		return nil, 0
	}
	return r.left, ttl
}

// sendReleases carries out the releases that Redis could not be told of.
func (l *Lease) sendReleases(ctx context.Context) {
	l.mu.Lock()
	open := maps.Clone(l.released)
	l.mu.Unlock()
	for _, user := range slices.Sorted(maps.Keys(open)) {
		if l.sendRelease(ctx, user, open[user]) != nil {
			return
		}
	}
}
