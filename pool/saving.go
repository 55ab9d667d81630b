package pool

import (
	"bytes"
	"context"
	"errors"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/vault"
	"claudepool/pool/workspace"
)

const (
	// writtenUsually is how long a CLI takes to write a turn to its transcript. Saving waits for it: so
	// it delays no request that follows at once, and turns that follow closely are saved together.
	writtenUsually = 100 * time.Millisecond
	// writtenWait is how long a CLI may take beyond that.
	writtenWait = 3 * time.Second
	// firstMirrorRetry and lastMirrorRetry are the pauses while the archive is away. A newer turn doesn't shorten them.
	firstMirrorRetry = time.Second
	lastMirrorRetry  = time.Minute
)

// manifestOf tells of a held conversation, but for Default.
func manifestOf(s *slot) *vault.Manifest {
	return &vault.Manifest{Session: s.id, Incarnation: s.incarnation, Named: s.named, Digests: s.digests,
		GoodTurn: s.goodTurn, Settings: vault.Settings(s.settings), LastUsed: time.Now(),
		Created: s.created, Title: s.title, Unspoken: !s.spoken}
}

// mirrorAll saves until nothing newer is to be saved. The user was this instance's as long as held goes on.
func (c *conversation) mirrorAll(dir *workspace.Folder, held context.Context) {
	p := c.pool
	writer := p.vault.NewWriter(c.user.keys.Load())
	life := context.WithoutCancel(p.life) // that the pool closes is no reason not to save
	for retry := firstMirrorRetry; ; {
		ctx, next := c.saver.take(life)
		if next == nil {
			return
		}
		version, isNewest, err := c.saveNext(ctx, writer, dir, next, held)
		switch {
		case err == nil:
			retry = firstMirrorRetry
			if !isNewest {
				c.keepForRetry(next, held)
			}
			c.setSaved(next, version, isNewest, next.Settings.IsLarge())
			c.user.dropOldest(life)
		case errors.Is(err, archive.ErrConflict), errors.Is(err, claude.ErrTooLarge):
			p.opts.Logger.Warn("a conversation is not mirrored any more", "user", api.ShortUser(c.user.id), "error", err)
			c.stopMirroring(err)
			return
		case errors.Is(err, errNotWritten), errors.Is(err, archive.ErrPermanent):
			p.opts.Logger.Warn("a turn is not mirrored", "user", api.ShortUser(c.user.id), "error", err)
		default:
			if ctx.Err() == nil {
				p.opts.Logger.Warn("the archive can't be written", "error", err, "retry_seconds", retry.Seconds())
				p.sleep(ctx, held, retry)
				retry = min(2*retry, lastMirrorRetry)
			}
			c.keepForRetry(next, held)
		}
	}
}

var (
	errNotWritten = errors.New("pool: the turn is not in the transcript")
	errInBetween  = errors.New("pool: the archive was changed in between")
)

// saveNext stores the conversation as the version after the present one. Where the network was split, that can be one
// which an instance that had the user before has stored since: it is replaced as long as the user is this instance's,
// or the next owner would go on from it. The error is archive.ErrConflict if the user isn't, or has had the
// conversation deleted.
func (c *conversation) saveNext(ctx context.Context, w *vault.Writer, dir *workspace.Folder, m *vault.Manifest,
	held context.Context) (version int64, isNewest bool, err error) {
	version = c.mirrored().version + 1
	if isNewest, err = c.saveOne(ctx, w, dir, m, version); !errors.Is(err, archive.ErrConflict) {
		return version, isNewest, err
	}
	unsure := c.pool.owner.Confirm(ctx, c.user.id)
	present, err := w.Present(ctx, m.Session)
	switch {
	case held.Err() != nil:
		return 0, false, archive.ErrConflict
	case err != nil:
		return 0, false, err
	case unsure != nil:
		return 0, false, unsure
	}
	c.pool.opts.Logger.Warn("what a former owner has mirrored is replaced", "user", api.ShortUser(c.user.id))
	version = present + 1
	if isNewest, err = c.saveOne(ctx, w, dir, m, version); errors.Is(err, archive.ErrConflict) {
		err = errInBetween
	}
	return version, isNewest, err
}

// saveOne stores the conversation as it was after the turn that the manifest tells of. isNewest is as vault.Writer's.
func (c *conversation) saveOne(ctx context.Context, w *vault.Writer, dir *workspace.Folder, m *vault.Manifest,
	version int64) (isNewest bool, err error) {
	text, err := c.written(ctx, dir, m)
	if err != nil {
		return false, err
	}
	return w.Save(ctx, *m, version, vault.NewBody(text))
}

// written returns the transcript once the turn stands in it. The end of ctx shortens the wait.
func (c *conversation) written(ctx context.Context, dir *workspace.Folder, m *vault.Manifest) (text []byte, err error) {
	err = dir.WithTranscript(m.Session, func(t claude.Transcript) (err error) {
		text, err = c.awaitTurn(ctx, t, m.GoodTurn)
		return err
	})
	if text == nil && !errors.Is(err, claude.ErrTooLarge) {
		err = errors.Join(errNotWritten, err)
	}
	return text, err
}

// awaitTurn reads a transcript until the turn stands in it, which is nil if that doesn't come.
func (c *conversation) awaitTurn(ctx context.Context, t claude.Transcript, turn string) ([]byte, error) {
	p := c.pool
	p.sleep(ctx, p.life, writtenUsually)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		text, err := t.Read(p.opts.ArchiveMaxBytes)
		switch {
		case err == nil && bytes.Contains(text, []byte(turn)):
			return text, nil
		case errors.Is(err, claude.ErrTooLarge), time.Since(began) > writtenWait, ctx.Err() != nil:
			return nil, err
		}
	}
}

// stopMirroring gives a conversation up. What the archive has of one that has become too large is removed: to go on
// from there would lose what was said since.
func (c *conversation) stopMirroring(why error) {
	c.stopMirror()
	c.saver.drop(true)
	if errors.Is(why, claude.ErrTooLarge) {
		c.tryDeleteArchived() // before another one may begin under the same id
	}
	c.saver.drop(false)
}

// stopSaving has nothing more of a conversation saved that is to be deleted, and returns when nothing is being saved.
func (s *slot) stopSaving(ctx context.Context) error {
	busy, done := s.saver.setDeleting(true)
	if !busy {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tryDeleteArchived removes what the archive has of a conversation. What it can't remove now expires.
func (c *conversation) tryDeleteArchived() {
	p := c.pool
	if err := c.deleteArchived(); err != nil {
		p.opts.Logger.Warn("an archived conversation is left behind", "user", api.ShortUser(c.user.id), "error", err)
	}
}

// dropOldest forgets the archived conversations that were used longest ago, where the user has too many: each costs
// reading it wherever the user comes next.
func (u *user) dropOldest(ctx context.Context) {
	p := u.pool
	for c := u.removeOldest(); c != nil; c = u.removeOldest() {
		if err := p.vault.Drop(ctx, u.keys.Load(), c.id, c.mirrored().version); err != nil {
			p.opts.Logger.Warn("an archived conversation is left behind", "user", api.ShortUser(u.id), "error", err)
		}
		c.dropFiles()
	}
}

func (c *conversation) deleteArchived() error {
	p := c.pool
	if p.vault == nil {
		return nil
	}
	return p.vault.Delete(context.WithoutCancel(p.life), c.user.keys.Load(), c.id) // although the pool may be closing
}

// sleep ends early with the pool's life, too, and with another context.
func (p *Pool) sleep(ctx, other context.Context, d time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)()
	defer context.AfterFunc(other, cancel)()
	sleep(ctx, d)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
