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
func (p *Pool) inherit(ctx context.Context, u *user, req, former *api.Request, outage bool) error {
	p.mu.Lock()
	past := p.users[former.UserID()]
	done := u.inherited[former.UserID()] && (past == nil || !past.owned && past.releasing == nil)
	p.mu.Unlock()
	if done {
		return nil
	}
	if err := p.recallAll(ctx, u, req); err != nil { // to know whose ids would be used twice
		return err
	}
	from, err := p.joinOwned(ctx, former, outage)
	if err != nil {
		return err
	}
	defer p.leave(from)
	if err := p.recallAll(ctx, from, former); err != nil {
		return err
	}
	held, err := p.holdAll(ctx, from, "")
	if err != nil {
		return err
	}
	defer p.yieldAll(held)
	copied, err := p.reseal(ctx, from, u, held)
	if err != nil {
		return err
	}
	moved := p.bequeath(from, u, held, copied, credentialOf(former), credentialOf(req))
	defer p.yieldAll(slices.Collect(maps.Values(moved)))
	for old, c := range moved {
		p.moveEntry(old, c)
		if copied[old] > 0 {
			p.goes(func() { p.forgetArchived(old) })
		} else {
			p.mirror(c)
		}
	}
	p.opts.Logger.Info("a user's token was replaced", "user", api.ShortUser(u.id), "former", api.ShortUser(from.id), "conversations", len(moved))
	return nil
}

// holdAll takes the slots of all the user's conversations, or of that of one session, and waits until nothing of them is
// being saved. On an error none is held.
func (p *Pool) holdAll(ctx context.Context, u *user, session string) (held []*conversation, err error) {
	for {
		c := p.nextToHold(u, session, held)
		if c == nil {
			break
		}
		if err := p.hold(ctx, c); err != nil {
			p.yieldAll(held)
			return nil, err
		}
		held = append(held, c)
	}
	if !p.awaitMirrored(u) {
		p.yieldAll(held)
		return nil, api.Unavailable(busyRetry, "a conversation is still being saved, try again")
	}
	// Turns that ended meanwhile may have begun others, and who held a slot before may have taken its conversation away.
	p.mu.Lock()
	gone := slices.ContainsFunc(held, func(c *conversation) bool { return c.gone })
	p.mu.Unlock()
	if gone || p.nextToHold(u, session, held) != nil {
		p.yieldAll(held)
		return p.holdAll(ctx, u, session)
	}
	return held, nil
}

// nextToHold is the first conversation in the order of ids that is not among those held. The order keeps two who hold
// all of a user from waiting for each other.
func (p *Pool) nextToHold(u *user, session string, held []*conversation) *conversation {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(u.conversations)) {
		c := u.conversations[id]
		if (session == "" || session == id) && !slices.Contains(held, c) {
			return c
		}
	}
	return nil
}

func (p *Pool) yieldAll(held []*conversation) {
	for _, c := range held {
		p.yield(c)
	}
}

// reseal copies what the archive has of the held conversations to where the heir will look for it, and returns under
// which versions. What it had copied when it failed before may be old by now and is copied again.
func (p *Pool) reseal(ctx context.Context, from, to *user, held []*conversation) (copied map[*conversation]int64, err error) {
	copied = make(map[*conversation]int64)
	for _, c := range held {
		p.mu.Lock()
		version, h := c.mirror.version, c.headLocked()
		there, next := to.conversations[c.id], int64(1)
		if there != nil {
			next = there.mirror.version + 1
		}
		stays := version == 0 || c.mirror.off || there != nil && !there.unusedCopyLocked(c)
		p.mu.Unlock()
		if stays {
			continue
		}
		name := from.keys.Name(h.Session)
		sealed, err := p.opts.Archive.Load(ctx, from.keys.Owner(), name, version)
		if err == nil {
			sealed, err = from.keys.Open(sealed, seal.Place{Name: name, Version: version, Part: "body"})
		}
		if err == nil {
			err = p.store(to.keys, h, next, sealed)
		}
		if err != nil {
			p.opts.Logger.Warn("an archived conversation can't be moved", "user", api.ShortUser(from.id), "error", err)
			p.mu.Lock()
			from.recall, to.recall = nil, nil // another instance may know more
			p.mu.Unlock()
			return nil, api.Unavailable(busyRetry, "the conversations of the previous token can't be moved now, try again")
		}
		copied[c] = next
	}
	return copied, nil
}

// unusedCopyLocked reports whether c is what the archive has of a copy of the other, and nothing more.
func (c *conversation) unusedCopyLocked(of *conversation) bool {
	return c.born == of.born && c.mirror.fetch && c.dir == nil && c.process == nil && !c.held
}

// bequeath makes a user's held conversations, some of which the archive has for the heir already, the heir's, all at once.
// It returns them, by what they were before; they are held too.
func (p *Pool) bequeath(from, u *user, held []*conversation, copied map[*conversation]int64, before, now broker.Credential) map[*conversation]*conversation {
	moved := make(map[*conversation]*conversation)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, old := range held {
		if there := u.conversations[old.id]; there != nil {
			if copied[old] == 0 || !there.unusedCopyLocked(old) {
				continue
			}
			u.loseLocked(there)
		}
		c := &conversation{user: u, named: old.named, id: old.id, born: old.born, held: true, process: old.process, digest: old.digest,
			settled: old.settled, lastUsed: old.lastUsed, settings: old.settings, seed: old.seed, dir: old.dir,
			dirty: old.dirty, goodTurn: old.goodTurn, mirror: mirror{off: old.mirror.off}}
		if copied[old] > 0 {
			c.mirror = mirror{version: copied[old], fetch: old.mirror.fetch}
		}
		u.conversations[c.id] = c
		if from.standard == old && u.standard == nil {
			u.standard = c
		}
		from.loseLocked(old)
		if proc := c.process; proc != nil {
			old.process = nil
			from.processes--
			u.processes++
			p.rebindLocked(c, before, now)
			p.goes(func() { p.bury(c, proc) })
		}
		moved[old] = c
	}
	if u.inherited == nil {
		u.inherited = make(map[string]bool)
	}
	u.inherited[from.id] = true
	u.wrote = true
	signal(p.changed)
	return moved
}

// rebindLocked has the process's calls carry the new token.
func (p *Pool) rebindLocked(c *conversation, before, now broker.Credential) {
	if err := c.process.grant.Rebind(before, now); err != nil {
		p.opts.Logger.Error("a process keeps its credential and is ended", "user", api.ShortUser(c.user.id), "error", err)
		c.process.kill()
	}
}

// loseLocked takes a held conversation from the user.
func (u *user) loseLocked(c *conversation) {
	if u.standard == c {
		u.standard = nil
	}
	delete(u.conversations, c.id)
	c.gone = true
}

// moveEntry enters the conversation's workspace in the index under its new user.
func (p *Pool) moveEntry(old, c *conversation) {
	if c.dir == nil {
		return
	}
	err := errors.Join(p.index.enter(c.user.id, c.id, c.dir), p.index.strike(old.user.id, c.id, c.dir))
	if err != nil {
		p.opts.Logger.Warn("a workspace is still entered under its former user", "error", err)
	}
}

// forgetArchived removes what the archive has of a conversation. What it can't remove now expires.
func (p *Pool) forgetArchived(c *conversation) {
	if err := p.deleteArchived(c); err != nil {
		p.opts.Logger.Warn("an archived conversation is left behind", "user", api.ShortUser(c.user.id), "error", err)
	}
}

func (p *Pool) deleteArchived(c *conversation) error {
	if p.opts.Archive == nil {
		return nil
	}
	return p.opts.Archive.Delete(context.WithoutCancel(p.life), c.user.keys.Owner(), c.user.keys.Name(c.id))
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
	defer p.leave(u)
	if err := p.recallAll(ctx, u, req); err != nil {
		return 0, err
	}
	held, err := p.holdAll(ctx, u, req.SessionID)
	if err != nil {
		return 0, err
	}
	defer p.yieldAll(held)
	for _, c := range held {
		if err := p.forgetOne(c); err != nil {
			return deleted, err
		}
		deleted++
	}
	return deleted, nil
}

// forgetOne deletes a held conversation, the archive's copy first: while that is there, the conversation is.
func (p *Pool) forgetOne(c *conversation) error {
	if err := p.deleteArchived(c); err != nil {
		p.opts.Logger.Warn("an archived conversation can't be deleted", "user", api.ShortUser(c.user.id), "error", err)
		return api.Unavailable(busyRetry, "not all could be deleted now, try again")
	}
	if c.process != nil {
		p.retire(c)
	}
	if err := p.removeWorkspace(c); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.user.loseLocked(c)
	return nil
}
