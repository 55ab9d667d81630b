package pool

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/vault"
)

// A token is its user's identity. Who comes with a new one and with the one before is the same person: what was the
// former user's becomes the present one's, with its processes.

const (
	// busyRetry is after how long it makes sense to ask again while something of a user is still being saved.
	busyRetry = time.Second
	// forgetWait is how long a deletion waits for running turns: its answer is no stream, so fronts don't wait for long.
	forgetWait = 45 * time.Second
	// copiesAtOnce bounds the memory that moving conversations takes: each may have a few times ArchiveMaxBytes.
	copiesAtOnce = 2
	// deletesAtOnce is how many conversations are deleted at a time.
	deletesAtOnce = 8
)

// takeOver makes the conversations of the former user the present one's, unless that has been done. It waits for their
// running turns. Either all of them have moved then or none; only one whose id the present user has too stays.
func (u *user) takeOver(ctx context.Context, req, former *api.Request, outage bool) error {
	p := u.pool
	if u.hasTakenOver(former.UserID()) {
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
	p.attending.tell(from.id)
	if err := from.recallAll(ctx, former); err != nil {
		return err
	}
	if !from.isUnproven() || from.standing.spared.Load() {
		u.standing.spared.Store(true)
	}
	held, err := from.holdAll(ctx, "")
	if err != nil {
		return err
	}
	defer yieldAll(held)
	if !from.awaitMirrored() {
		return api.Unavailable(busyRetry, "a conversation is still being saved, try again")
	}
	copied, err := from.reseal(ctx, u, held)
	if err != nil {
		return err
	}
	if lease := p.owner.Held(from.id); lease.Err() != nil { // another instance goes on with them
		return context.Cause(lease)
	}
	moved := from.moveConversations(u, held, copied)
	u.inherit(from)
	p.spaces.mark(from)
	p.spaces.mark(u)
	defer yieldAll(slices.Collect(maps.Values(moved)))
	for old, s := range moved {
		s.adopted(old, credentialOf(former), credentialOf(req))
		if _, isCopied := copied[old.conversation]; !isCopied {
			s.save()
		}
	}
	deleteCopied(ctx, moved, copied) // before anybody can be given the former user
	signal(p.changed)
	p.opts.Logger.Info("a user's token was replaced", "user", api.ShortUser(u.id), "former", api.ShortUser(from.id),
		"conversations", len(moved))
	return nil
}

// deleteCopied deletes what the archive has of moved conversations under the former user.
func deleteCopied(ctx context.Context, moved map[*slot]*slot, copied map[*conversation]mirror) {
	former := slices.Collect(maps.Keys(moved))
	_ = each(context.WithoutCancel(ctx), former, deletesAtOnce, func(s *slot) error {
		if _, isCopied := copied[s.conversation]; isCopied {
			s.tryDeleteArchived()
		}
		return nil
	})
}

// holdAll takes the slots of all the user's conversations, or of that of one session. On an error none is held. They
// are taken in the order of their ids, so that two who take all of them don't wait for each other.
func (u *user) holdAll(ctx context.Context, session string) (held []*slot, err error) {
	u.pool.toolWaits.undo(u.id, session)
	for {
		known := u.known()
		for _, id := range slices.Sorted(maps.Keys(known)) {
			if session != "" && session != id {
				continue
			}
			s, err := known[id].hold(ctx)
			if err != nil {
				yieldAll(held)
				return nil, err
			}
			held = append(held, s)
		}
		if isAll(held, u.known(), session) {
			return held, nil
		}
		yieldAll(held)
		held = nil
	}
}

// isAll reports whether the slots are those of all known conversations, or of that of one session. Turns that ended
// while they were waited for may have begun others, and who held one before may have taken its conversation away.
func isAll(held []*slot, known map[string]*conversation, session string) bool {
	maps.DeleteFunc(known, func(id string, _ *conversation) bool { return session != "" && id != session })
	return len(held) == len(known) && !slices.ContainsFunc(held, func(s *slot) bool { return s.removed })
}

// yieldAll puts slots down, the last one used first, which is how their line takes them up fastest.
func yieldAll(held []*slot) {
	slices.SortFunc(held, func(a, b *slot) int { return b.lastUsed.Compare(a.lastUsed) })
	for _, s := range held {
		s.yield()
	}
}

// each does something with slots, some at a time. None is begun with after the first error.
func each(ctx context.Context, held []*slot, atOnce int, do func(*slot) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, s := range held {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return do(s)
		})
	}
	return group.Wait()
}

// reseal copies what the archive has of the held conversations to where the present user will look for it, and returns
// what it then has there. What it had copied when it failed before may be old by now and is copied again. One that
// can't be copied, now or ever, is left out.
func (from *user) reseal(ctx context.Context, to *user, held []*slot) (copied map[*conversation]mirror, err error) {
	p := from.pool
	copied = make(map[*conversation]mirror)
	var mu sync.Mutex // guards copied
	err = each(ctx, held, copiesAtOnce, func(s *slot) error {
		plan, moves := s.planCopy(to)
		if !moves {
			return nil
		}
		err := from.copyTo(ctx, to, plan)
		if err != nil {
			p.opts.Logger.Warn("an archived conversation can't be moved", "user", api.ShortUser(from.id), "error", err)
		}
		if errors.Is(err, archive.ErrPermanent) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		copied[s.conversation] = plan.mirror()
		return err
	})
	if err != nil {
		from.recalled.Store(nil) // another instance may know more
		to.recalled.Store(nil)
		return nil, api.Unavailable(busyRetry, "the conversations of the previous token can't be moved now, try again")
	}
	return copied, nil
}

// copying is what it takes to make an archived conversation another user's.
type copying struct {
	manifest vault.Manifest
	from     mirror
	to       int64 // the version to make
}

// apart reports whether the settings are in the archive alone.
func (c *copying) apart() bool { return c.from.fetch && c.from.apart }

// mirror is what the archive has of the conversation after the copying.
func (c *copying) mirror() mirror {
	return mirror{version: c.to, fresh: true, fetch: c.from.fetch, apart: c.apart() || c.manifest.Settings.IsLarge()}
}

// planCopy says how what the archive has of the held conversation is to be copied for another user, and whether it is.
func (s *slot) planCopy(to *user) (plan copying, moves bool) {
	isDefault, there, isFree := s.compare(to)
	plan = copying{manifest: *manifestOf(s), from: s.mirrored(), to: there.version + 1}
	plan.manifest.Default = isDefault
	return plan, plan.from.version > 0 && plan.from.fresh && !plan.from.off && isFree
}

// copyTo carries a copying out.
func (from *user) copyTo(ctx context.Context, to *user, plan copying) error {
	v := from.pool.vault
	body, err := v.Load(ctx, from.keys.Load(), plan.manifest.Session, plan.from.version)
	if err != nil {
		return err
	}
	if plan.apart() && body.Settings != nil {
		plan.manifest.Settings = *body.Settings
	}
	return v.Save(context.WithoutCancel(ctx), to.keys.Load(), plan.manifest, plan.to, body)
}

// adopted makes what was another user's the slot's user's: the process's calls carry the new token, and the workspace
// is entered in the index under the new user.
func (s *slot) adopted(old *slot, before, now broker.Credential) {
	p := s.pool
	if proc := s.process; proc != nil {
		if err := proc.Rebind(before, now); err != nil {
			p.opts.Logger.Error("a process keeps its credential and is ended", "user", api.ShortUser(s.user.id), "error", err)
			proc.Kill()
		}
		p.work.Go(func() { s.conversation.awaitExit(proc) })
	}
	if s.dir == nil {
		return
	}
	err := errors.Join(p.index.Link(s.user.id, s.id, s.dir), p.index.Unlink(old.user.id, s.id, s.dir))
	if err != nil {
		p.opts.Logger.Warn("a workspace is still entered under its former user", "error", err)
	}
}

// Forget deletes the user's conversations, or that of the request's session if it names one: what the archive has of
// them, their processes and their files. It waits for running turns. It returns how many there were; the error is as
// Acquire's.
func (p *Pool) Forget(ctx context.Context, req *api.Request, outage bool) (deleted int, err error) {
	late := api.Unavailable(busyRetry, "a turn is still running, try again")
	ctx, cancel := context.WithTimeoutCause(ctx, forgetWait, late)
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
	var count atomic.Int64
	err = each(ctx, held, deletesAtOnce, func(s *slot) error {
		if err := s.delete(ctx); err != nil {
			return err
		}
		count.Add(1)
		return nil
	})
	return int(count.Load()), err
}

// delete deletes the conversation, the archive's copy first: while that is there, the conversation is. What was about
// to be saved isn't any more.
func (s *slot) delete(ctx context.Context) error {
	err := s.stopSaving(ctx)
	if err == nil {
		err = s.conversation.deleteArchived()
	}
	if err != nil {
		s.resumeSaving()
		s.pool.opts.Logger.Warn("an archived conversation can't be deleted", "user", api.ShortUser(s.user.id), "error", err)
		if errors.Is(err, archive.ErrPermanent) {
			return api.BadGateway("not all could be deleted")
		}
		return api.Unavailable(busyRetry, "not all could be deleted now, try again")
	}
	if s.process != nil {
		if err := s.end(); err != nil {
			s.unarchived()
			return err
		}
	}
	err = s.conversation.removeWorkspace()
	s.remove() // what is left of the files is nobody's
	s.pool.spaces.mark(s.user)
	return err
}
