package pool

import (
	"context"
	"errors"
	"sync"

	"claudepool/pool/api"
)

var errLeaving = errors.New("pool: the user is being given up")

// attending are those who have users stay without asking for anything. A user who is to be given up isn't as long as
// somebody does, so they are told. Its methods may be called concurrently.
type attending struct {
	mu    sync.Mutex // guards the following
	over  bool       // all are told
	users map[string]map[*attendance]bool
}

type attendance struct{ end context.CancelCauseFunc }

func (all *attending) add(id string, a *attendance) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.over {
		a.end(ErrDraining)
	}
	if all.users[id] == nil {
		all.users[id] = make(map[*attendance]bool)
	}
	all.users[id][a] = true
}

func (all *attending) remove(id string, a *attendance) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if delete(all.users[id], a); len(all.users[id]) == 0 {
		delete(all.users, id)
	}
}

// tell tells those who attend the user.
func (all *attending) tell(id string) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for a := range all.users[id] {
		a.end(errLeaving)
	}
}

// tellAll tells all there are and will be.
func (all *attending) tellAll() {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.over = true
	for _, of := range all.users {
		for a := range of {
			a.end(ErrDraining)
		}
	}
}

// Attend has the user stay this instance's as Hold does, for who may stay long. leaving ends when the user is to be
// given up: then that waits for letGo.
func (p *Pool) Attend(ctx context.Context, req *api.Request, outage bool) (leaving context.Context, letGo func(),
	err error) {
	u, err := p.joinOwned(ctx, req, outage)
	if err != nil {
		return nil, nil, err
	}
	u.countUnadmitted(1) // as in Hold
	leaving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	a := &attendance{end}
	p.attending.add(u.id, a)
	stop := context.AfterFunc(p.owner.Held(u.id), func() { end(errMoved) })
	if u.isLeaving() { // since before it could be told
		end(errLeaving)
	}
	return leaving, func() {
		stop()
		p.attending.remove(u.id, a)
		end(nil)
		u.leaveWith(1)
	}, nil
}
