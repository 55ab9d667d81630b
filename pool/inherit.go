package pool

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/seal"
)

// A token is its user's identity. Who comes with a new one and with the one before is the same person: what was the
// former user's becomes the present one's, with its processes.

const (
	// busyRetry is after how long it makes sense to ask again while something of a user is still being saved.
	busyRetry = time.Second
	// forgetWait is how long a deletion waits for running turns: its answer is no stream, so fronts don't wait for long.
	forgetWait = 45 * time.Second
)

// inherit makes the conversations of the former user the present one's, unless that has been done. It waits for their
// running turns. Either all of them have moved then or none; only one whose id the present user has too stays.
func (u *user) inherit(ctx context.Context, req, former *api.Request, outage bool) error {
	p := u.pool
	if u.hasInherited(former.UserID()) {
		return nil
	}
	if err := u.recallAll(ctx, req); err != nil { // to know whose ids would be used twice
		return err
	}
	from, err := p.joinOwned(ctx, former, outage)
	if err != nil {
		return err
	}
	defer from.leave()
	if err := from.recallAll(ctx, former); err != nil {
		return err
	}
	held, err := from.holdAll(ctx, "")
	if err != nil {
		return err
	}
	defer yieldAll(held)
	copied, err := from.reseal(ctx, u, held)
	if err != nil {
		return err
	}
	moved := from.bequeath(u, held, copied)
	defer yieldAll(slices.Collect(maps.Values(moved)))
	for old, s := range moved {
		s.adopted(old, credentialOf(former), credentialOf(req))
		if copied[old.conversation] > 0 {
			p.goes(func() { old.conversation.forgetArchived() })
		} else {
			s.save()
		}
	}
	signal(p.changed)
	p.opts.Logger.Info("a user's token was replaced", "user", api.ShortUser(u.id), "former", api.ShortUser(from.id), "conversations", len(moved))
	return nil
}

// holdAll takes the slots of all the user's conversations, or of that of one session, and waits until nothing of them is
// being saved. On an error none is held.
func (u *user) holdAll(ctx context.Context, session string) (held []*slot, err error) {
	for c := u.nextToHold(session, held); c != nil; c = u.nextToHold(session, held) {
		s, err := c.hold(ctx)
		if err != nil {
			yieldAll(held)
			return nil, err
		}
		held = append(held, s)
	}
	if !u.awaitMirrored() {
		yieldAll(held)
		return nil, api.Unavailable(busyRetry, "a conversation is still being saved, try again")
	}
	// Turns that ended meanwhile may have begun others, and who held a slot before may have taken its conversation away.
	gone := slices.ContainsFunc(held, func(s *slot) bool { return s.gone })
	if gone || u.nextToHold(session, held) != nil {
		yieldAll(held)
		return u.holdAll(ctx, session)
	}
	return held, nil
}

func yieldAll(held []*slot) {
	for _, s := range held {
		s.yield()
	}
}

// reseal copies what the archive has of the held conversations to where the heir will look for it, and returns under
// which versions. What it had copied when it failed before may be old by now and is copied again.
func (from *user) reseal(ctx context.Context, to *user, held []*slot) (copied map[*conversation]int64, err error) {
	p := from.pool
	copied = make(map[*conversation]int64)
	for _, s := range held {
		plan, moves := s.planCopy(to)
		if !moves {
			continue
		}
		name := from.keys.Name(plan.head.Session)
		sealed, err := p.vault.load(ctx, from.keys, name, plan.from)
		if err == nil {
			sealed, err = from.keys.Open(sealed, seal.Place{Name: name, Version: plan.from, Part: "body"})
		}
		if err == nil {
			err = p.vault.save(to.keys, plan.head, plan.to, sealed)
		}
		if err != nil {
			p.opts.Logger.Warn("an archived conversation can't be moved", "user", api.ShortUser(from.id), "error", err)
			from.dropRecall(nil) // another instance may know more
			to.dropRecall(nil)
			return nil, api.Unavailable(busyRetry, "the conversations of the previous token can't be moved now, try again")
		}
		copied[s.conversation] = plan.to
	}
	return copied, nil
}

// adopted makes what was another user's the slot's user's: the process's calls carry the new token, and the workspace is
// entered in the index under the new user.
func (s *slot) adopted(old *slot, before, now broker.Credential) {
	p := s.pool
	if proc := s.process; proc != nil {
		if err := proc.Rebind(before, now); err != nil {
			p.opts.Logger.Error("a process keeps its credential and is ended", "user", api.ShortUser(s.user.id), "error", err)
			proc.Kill()
		}
		p.goes(func() { s.conversation.bury(proc) })
	}
	if s.dir == nil {
		return
	}
	err := errors.Join(p.index.enter(s.user.id, s.id, s.dir), p.index.strike(old.user.id, s.id, s.dir))
	if err != nil {
		p.opts.Logger.Warn("a workspace is still entered under its former user", "error", err)
	}
}

// Forget deletes the user's conversations, or that of the request's session if it names one: what the archive has of
// them, their processes and their files. It waits for running turns. It returns how many there were; the error is as
// Acquire's.
func (p *Pool) Forget(ctx context.Context, req *api.Request, outage bool) (deleted int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, forgetWait, api.Unavailable(busyRetry, "a turn is still running, try again"))
	defer cancel()
	u, err := p.joinOwned(ctx, req, outage)
	if err != nil {
		return 0, err
	}
	defer u.leave()
	if err := u.recallAll(ctx, req); err != nil {
		return 0, err
	}
	held, err := u.holdAll(ctx, req.SessionID)
	if err != nil {
		return 0, err
	}
	defer yieldAll(held)
	for _, s := range held {
		if err := s.delete(); err != nil {
			return deleted, err
		}
		deleted++
	}
	return deleted, nil
}

// delete deletes the conversation, the archive's copy first: while that is there, the conversation is.
func (s *slot) delete() error {
	p := s.pool
	if err := s.conversation.deleteArchived(); err != nil {
		p.opts.Logger.Warn("an archived conversation can't be deleted", "user", api.ShortUser(s.user.id), "error", err)
		return api.Unavailable(busyRetry, "not all could be deleted now, try again")
	}
	if s.process != nil {
		s.end()
	}
	if err := s.conversation.removeWorkspace(); err != nil {
		return err
	}
	s.lose()
	return nil
}
