package pool

import (
	"slices"
	"sync"
)

// estate is whose sums are to become a user's as soon as an API has accepted the user's own credential: a token that
// somebody makes up takes nobody's.
type estate struct {
	mu   sync.Mutex // guards the following
	from []string   // the latest maxFormerIDs
}

// inherit makes what is counted for a former user the user's, now or as soon as the API has accepted the user's
// credential. Of one whose credential it never accepted nothing is counted.
func (u *user) inherit(from *user) {
	if from.isUnproven() {
		return
	}
	e, former := &u.estate, from.id
	e.mu.Lock()
	defer e.mu.Unlock()
	if !u.isUnproven() {
		u.pool.opts.Ledger.Move(former, u.id)
		return
	}
	if slices.Contains(e.from, former) {
		return
	}
	if len(e.from) == maxFormerIDs {
		e.from = slices.Delete(e.from, 0, 1)
	}
	e.from = append(e.from, former)
}

// accepted says that the user is proven.
func (u *user) accepted() {
	if u.standing.proven.Swap(true) {
		return
	}
	e := &u.estate
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, former := range e.from {
		u.pool.opts.Ledger.Move(former, u.id)
	}
	e.from = nil
}
