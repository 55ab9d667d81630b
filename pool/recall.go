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
		u.standing.proven.Store(true) // or nothing would have been saved
		h.Settings = p.restrained(h.Settings)
		u.enroll(record.Version, h)
	}
}

// restrained is an archived conversation's settings without what this instance doesn't allow.
func (p *Pool) restrained(r settingsRecord) settingsRecord {
	if permissionRank(r.Permission) > permissionRank(p.opts.PermissionMode) {
		r.Permission = p.opts.PermissionMode
	}
	if !p.opts.Confined {
		r.MCP = withoutCommands(r.MCP)
	}
	return r
}

// learn gets the settings of a conversation that the archive has with its transcript.
func (s *slot) learn(ctx context.Context) error {
	if !s.mirror.fetch || !s.mirror.apart {
		return nil
	}
	_, apart, err := s.load(ctx)
	if errors.Is(err, archive.ErrPermanent) {
		return nil // they are lost, as the transcript is: see prepare
	}
	if err == nil && apart != nil {
		s.settings = s.pool.restrained(*apart).settings()
	}
	return err
}

// load returns what the archive has beside the head. What another instance has saved meanwhile is not known here: then
// the caller comes back, and the user is recalled again. The error is archive.ErrPermanent if what is kept is damaged.
func (s *slot) load(ctx context.Context) (zipped []byte, apart *settingsRecord, err error) {
	p := s.pool
	zipped, apart, err = p.vault.load(ctx, s.user.keys, s.id, s.version())
	if err != nil {
		p.opts.Logger.Warn("an archived conversation can't be fetched", "user", api.ShortUser(s.user.id), "error", err)
		if errors.Is(err, archive.ErrPermanent) {
			return nil, nil, err
		}
		s.user.dropRecall(nil)
		err = api.Unavailable(time.Second, "this conversation can't be fetched now, try again")
	}
	return zipped, apart, err
}

// fetch puts the archived transcript in its place.
func (s *slot) fetch(ctx context.Context, transcript claude.Transcript) error {
	zipped, _, err := s.load(ctx)
	if err != nil {
		return err
	}
	text, err := unzip(zipped)
	if err != nil {
		return fmt.Errorf("%w: %w", archive.ErrPermanent, err)
	}
	if err = transcript.Restore(text); err != nil {
		return fmt.Errorf("pool: fetch: %w", err)
	}
	s.fetched()
	s.dirty = bytes.Contains(text, []byte(s.goodTurn)) // what it has beyond the last good turn doesn't count
	return nil
}

var errArchiveAway = errors.New("pool: the archive is away")
