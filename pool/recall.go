package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/seal"
	"claudepool/pool/vault"
)

// openVault returns the vault, nil where there is no archive, and has the archive's connection made.
func openVault(p *Pool) *vault.Vault {
	if p.opts.Archive == nil {
		return nil
	}
	v := vault.New(p.opts.Archive)
	p.work.Go(func() {
		if err := v.Connect(p.life); err != nil {
			p.opts.Logger.Warn("the archive can't be read", "error", err)
		}
	})
	return v
}

// recall is the question what the archive has of a user, asked once each time the user becomes this instance's.
type recall struct {
	done chan struct{}
	err  error // valid when done is closed
}

// recall makes the user's archived conversations known here. While the archive can't be read, requests are served
// with what is known here, except those for a session id that isn't: they get the error.
func (u *user) recall(ctx context.Context, req *api.Request) error {
	err := u.recallAll(ctx, req)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil || req.SessionID == "" || u.lookUp(req.SessionID) != nil {
		return nil
	}
	return err
}

// recallAll is recall for callers that need all of the conversations: it fails where the archive can't be read.
func (u *user) recallAll(ctx context.Context, req *api.Request) error {
	p := u.pool
	if p.vault == nil {
		return nil
	}
	r, isNew := u.askOnce(req)
	if isNew {
		p.work.Go(func() { u.find(r) })
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if r.err != nil {
		return api.Unavailable(vault.ListPause, "which conversations there are can't be told now, try again")
	}
	return nil
}

// askOnce returns what the archive is asked about the user, and whether it is to be asked now.
func (u *user) askOnce(req *api.Request) (r *recall, isNew bool) {
	if u.keys.Load() == nil {
		u.keys.Store(seal.Derive(req.Token()))
	}
	for {
		if r = u.recalled.Load(); r != nil {
			return r, false
		}
		r = &recall{done: make(chan struct{})}
		if u.recalled.CompareAndSwap(nil, r) {
			return r, true
		}
	}
}

// find answers a recall. A failed one is forgotten, so that the next request asks again.
func (u *user) find(r *recall) {
	p := u.pool
	defer close(r.done)
	kept, err := p.vault.List(p.life, u.keys.Load())
	if err != nil {
		if !errors.Is(err, vault.ErrPaused) {
			p.opts.Logger.Warn("the archive can't be read, conversations of other instances are unknown", "error", err)
		}
		r.err = err
		u.recalled.CompareAndSwap(r, nil)
		return
	}
	u.dropMissing(kept)
	for _, err := range kept.Unreadable {
		p.opts.Logger.Warn("an archived conversation can't be read", "user", api.ShortUser(u.id), "error", err)
	}
	for _, c := range kept.Conversations {
		u.accepted() // or nothing would have been saved
		c.Settings = p.clamped(c.Settings)
		u.addArchived(u.archived(c), c.Default)
	}
	p.work.Go(func() { u.dropOldest(p.life) })
}

// archived makes a conversation of what the archive has.
func (u *user) archived(kept vault.Conversation) *slot {
	s := u.newConversation(kept.Session, kept.Incarnation, kept.Digests)
	s.spoken, s.named, s.title, s.created = !kept.Unspoken, kept.Named, kept.Title, kept.Created
	s.mirror = mirror{version: kept.Version, usedAt: kept.LastUsed, fresh: true, fetch: true, apart: kept.SettingsInBody}
	s.settings, s.goodTurn, s.answered = cli.Settings(kept.Settings), kept.GoodTurn, true
	return s
}

// dropMissing drops conversations that were deleted at another instance, and those that were to be fetched and aren't
// there any more.
func (u *user) dropMissing(kept vault.Listing) {
	p := u.pool
	for id, c := range u.known() {
		state := kept.State(id)
		if state != vault.Saved && c.removeUnused(state == vault.Deleted) {
			p.work.Go(func() { c.dropFiles() })
		}
	}
}

// clamped is an archived conversation's settings without what this instance doesn't allow.
func (p *Pool) clamped(s vault.Settings) vault.Settings {
	if permissionRank(s.Permission) > permissionRank(p.opts.PermissionMode) {
		s.Permission = p.opts.PermissionMode
	}
	if !p.opts.Confined {
		s.MCP = withoutCommands(s.MCP)
	}
	s.Interactive = s.Interactive && p.opts.Approvals
	return s
}

// learn gets the settings of a conversation that the archive has with its transcript.
func (s *slot) learn(ctx context.Context) error {
	if !s.mirror.fetch || !s.mirror.apart {
		return nil
	}
	body, err := s.load(ctx)
	if errors.Is(err, archive.ErrPermanent) {
		return nil // they are lost, as the transcript is: see prepare
	}
	if err == nil && body.Settings != nil {
		s.settings = cli.Settings(s.pool.clamped(*body.Settings))
	}
	return err
}

// load returns what the archive has beside the manifest. What another instance has saved meanwhile is not known here:
// then the caller comes back, and the user is recalled again. The error is archive.ErrPermanent if what is kept is
// damaged.
func (s *slot) load(ctx context.Context) (vault.Body, error) {
	p := s.pool
	if s.archived != nil {
		return *s.archived, nil
	}
	body, err := p.vault.Load(ctx, s.user.keys.Load(), s.id, s.mirrored().version)
	if err != nil {
		p.opts.Logger.Warn("an archived conversation can't be fetched", "user", api.ShortUser(s.user.id), "error", err)
		if errors.Is(err, archive.ErrPermanent) {
			return body, err
		}
		s.user.recalled.Store(nil)
		err = api.Unavailable(time.Second, "this conversation can't be fetched now, try again")
	}
	return body, err
}

// loadAhead loads what has to be fetched, so that no process is taken for a conversation that can't go on now.
func (s *slot) loadAhead(ctx context.Context) error {
	if !s.mirror.fetch {
		return nil
	}
	body, err := s.load(ctx)
	if errors.Is(err, archive.ErrPermanent) {
		return nil // the conversation goes on without: see prepare
	}
	s.archived = &body
	return err
}

// fetch puts the archived transcript in its place.
func (s *slot) fetch(ctx context.Context, transcript claude.Transcript) error {
	body, err := s.load(ctx)
	if err != nil {
		return err
	}
	text, err := body.Transcript()
	if err != nil {
		return err
	}
	if err = transcript.Restore(text); err != nil {
		return fmt.Errorf("pool: fetch: %w", err)
	}
	s.setFetched()
	s.dirty = bytes.Contains(text, []byte(s.goodTurn)) // what it has beyond the last good turn doesn't count
	return nil
}
