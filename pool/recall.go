package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/seal"
)

// recallPause is how long nobody is asked for conversations after the archive has failed to tell, so that an outage
// doesn't cost every new user its time-out.
const recallPause = 5 * time.Second

// recall is the question what the archive has of a user, asked once each time the user becomes this instance's.
type recall struct {
	done chan struct{}
	err  error // valid when done is closed
}

// recall makes the user's archived conversations known here. While the archive can't tell, a user without any is served
// as a new one, but nobody who asks for a certain conversation that isn't here.
func (u *user) recall(ctx context.Context, req *api.Request) error {
	err := u.recallAll(ctx, req)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil || req.SessionID == "" || u.has(req.SessionID) {
		return nil
	}
	return err
}

// recallAll is recall for who has to know all of them.
func (u *user) recallAll(ctx context.Context, req *api.Request) error {
	p := u.pool
	if p.vault == nil {
		return nil
	}
	r, isNew := u.askOnce(req)
	if isNew {
		p.goes(func() { u.find(r) })
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if r.err != nil {
		return api.Unavailable(recallPause, "which conversations there are can't be told now, try again")
	}
	return nil
}

// find answers a recall. A failed one is forgotten, so that the next request asks again.
func (u *user) find(r *recall) {
	p := u.pool
	defer close(r.done)
	records, err := p.vault.list(u.keys)
	if err != nil {
		r.err = err
		u.dropRecall(r)
		return
	}
	u.unlearn(records)
	for _, record := range records {
		if record.Deleted {
			continue
		}
		h, err := openHead(u.keys, record)
		if err != nil {
			p.opts.Logger.Warn("an archived conversation can't be read", "user", api.ShortUser(u.id), "error", err)
			continue
		}
		p.restrain(h)
		u.enroll(record.Version, h)
	}
}

// restrain takes from an archived conversation's settings what this instance doesn't allow.
func (p *Pool) restrain(h *head) {
	if permissionRank(h.Settings.Permission) > permissionRank(p.opts.PermissionMode) {
		h.Settings.Permission = p.opts.PermissionMode
	}
	if !p.opts.Confined {
		h.Settings.MCP = withoutCommands(h.Settings.MCP)
	}
}

// fetch puts the archived transcript in its place. What another instance has saved meanwhile is not known here: then
// the caller comes back, and the user is recalled again.
func (s *slot) fetch(ctx context.Context, transcript claude.Transcript) error {
	p, keys, version := s.pool, s.user.keys, s.version()
	name := keys.Name(s.id)
	sealed, err := p.vault.load(ctx, keys, name, version)
	if err != nil {
		p.opts.Logger.Warn("an archived conversation can't be fetched", "user", api.ShortUser(s.user.id), "error", err)
		s.user.dropRecall(nil)
		return api.Unavailable(time.Second, "this conversation can't be fetched now, try again")
	}
	text, err := keys.Open(sealed, seal.Place{Name: name, Version: version, Part: "body"})
	if err == nil {
		text, err = unzip(text)
	}
	if err == nil {
		err = transcript.Restore(text)
	}
	if err != nil {
		return fmt.Errorf("pool: fetch: %w", err)
	}
	s.fetched()
	s.dirty = bytes.Contains(text, []byte(s.goodTurn)) // what it has beyond the last good turn doesn't count
	return nil
}

var errArchiveAway = errors.New("pool: the archive is away")
