package router

import (
	"context"
	"errors"
	"time"
)

const (
	adoptTries = 3
	// provenTTL is how long a credential stays proven that isn't accepted again, and provenAgain how long an instance lets
	// Redis believe what it was told last.
	provenTTL   = 7 * 24 * time.Hour
	provenAgain = 24 * time.Hour
)

// holding is what a lease knows of a user it holds.
type holding struct {
	claim  string        // its number
	proven bool          // the API has accepted the user's credential
	toldAt time.Duration // when Redis was last told so, by the lease's clock

	ctx  context.Context // Held's
	lost context.CancelCauseFunc
}

// notHeld is what Held returns for a user who isn't held.
var notHeld = func() context.Context {
	ctx, lost := context.WithCancelCause(context.Background())
	lost(ErrNotOwner)
	return ctx
}()

// Held returns a context that ends, with ErrNotOwner as its cause, when the user was given up or turns out to be
// another instance's by now: what is being done for the user here has to stop. It has ended for a user who isn't held.
func (l *Lease) Held(user string) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h, held := l.claims[user]; held {
		return h.ctx
	}
	return notHeld
}

// Confirm returns nil if Redis says that a user who is held is this instance's, else ErrNotNow: the end of Held says
// when it is known to be another's.
func (l *Lease) Confirm(ctx context.Context, user string) error {
	a, err := l.asker.ask(ctx, user)
	l.mu.Lock()
	defer l.mu.Unlock()
	if h, held := l.claims[user]; err != nil || !held || h.claim != a.claim {
		return ErrNotNow
	}
	return nil
}

// adoption is what Redis says of a user who isn't held here.
type adoption struct {
	claim     string        // by which the user is this instance's, or empty
	provenFor time.Duration // for so long the credential still is proven; 0 or less: it isn't
}

// adopt asks Redis whether a user that isn't held here is this instance's. A claim that was released or taken while the
// answer was on its way is not adopted: the answer has to be of one stretch without changes.
func (l *Lease) adopt(ctx context.Context, user string) error {
	for range adoptTries {
		l.mu.Lock()
		before := l.changes
		l.mu.Unlock()
		a, err := l.asker.ask(ctx, user)
		if err != nil {
			return ErrNotNow
		}
		if changed, err := l.adoptAnswer(user, a, before); !changed {
			return err
		}
	}
	return ErrNotNow
}

// ownAll returns for each user by which claim it is this instance's, and whether its credential is proven.
func (l *Lease) ownAll(ctx context.Context, users []string) ([]adoption, error) {
	keys := []string{epochKey}
	for _, user := range users {
		keys = append(keys, ownerKey(user))
	}
	for _, user := range users {
		keys = append(keys, provenKey(user))
	}
	answer, err := ownScript.Run(ctx, l.redis, keys, LeaseTime.Milliseconds(), l.id).Slice()
	if err != nil {
		return nil, err
	}
	all := make([]adoption, len(answer))
	for i, one := range answer {
		fields, _ := one.([]any)
		if all[i].claim, err = text(fields, 0); err != nil {
			return nil, err
		}
		left, ok := fields[len(fields)-1].(int64)
		if !ok {
			return nil, errors.New("router: unexpected answer of a script")
		}
		all[i].provenFor = time.Duration(left) * time.Millisecond
	}
	return all, nil
}

func (l *Lease) adoptAnswer(user string, a adoption, before int) (changed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changes != before {
		return true, nil
	}
	if a.claim == "" || !l.freshLocked() || l.released[user].claim == a.claim {
		return false, ErrNotOwner
	}
	if held := l.claims[user]; held.claim != a.claim { // else it has been adopted meanwhile, and perhaps proven
		if held.lost != nil {
			held.lost(ErrNotOwner)
		}
		ctx, lost := context.WithCancelCause(context.Background())
		l.claims[user] = holding{claim: a.claim, proven: a.provenFor > 0,
			toldAt: l.opts.Clock() - (provenTTL - max(0, a.provenFor)), ctx: ctx, lost: lost}
	}
	return false, nil
}

// Proven reports whether the API has accepted the credential of a user who is held here, as far as is known: Redis said
// so together with the claim, or Prove did since. It waits for nobody.
func (l *Lease) Proven(user string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.claims[user].proven
}

// Prove says that the API has just accepted the user's credential. It may be said of every answer: Redis is told of the
// first, and then once a day. On an error the user is proven here all the same, and Redis is told the next time.
func (l *Lease) Prove(ctx context.Context, user string) error {
	if !l.markProven(user) {
		return nil
	}
	now := l.opts.Clock()
	if err := l.redis.Set(ctx, provenKey(user), 1, provenTTL).Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h, held := l.claims[user]; held {
		h.toldAt = now
		l.claims[user] = h
	}
	return nil
}

// markProven notes that the user is proven, and reports whether Redis is to be told.
func (l *Lease) markProven(user string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, held := l.claims[user]
	if !held {
		return true // given up meanwhile, or another's by now: it is true all the same
	}
	tell := !h.proven || l.opts.Clock()-h.toldAt > provenAgain
	h.proven = true
	l.claims[user] = h
	return tell
}
