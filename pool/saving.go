package pool

import (
	"bytes"
	"context"
	"errors"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/claude"
)

const (
	// writtenUsually is how long a CLI takes to write a turn to its transcript. Who asks the next question at once isn't
	// kept from its answer by what is being saved, and what follows closely is saved together.
	writtenUsually = 100 * time.Millisecond
	// writtenWait is how long a CLI may take beyond that.
	writtenWait = 3 * time.Second
	// firstMirrorRetry and lastMirrorRetry are the pauses while the archive is away. A newer turn doesn't shorten them.
	firstMirrorRetry = time.Second
	lastMirrorRetry  = time.Minute
)

// mirrorAll saves until nothing newer is to be saved.
func (c *conversation) mirrorAll(dir *workspace) {
	p := c.pool
	retry := firstMirrorRetry
	unsure := make(map[string]bool) // last good turns of what may have been saved, though no answer said so
	for {
		ctx, next, version := c.nextToMirror()
		if next == nil {
			return
		}
		err := c.saveOne(ctx, dir, next, version)
		isNewest := true
		if errors.Is(err, archive.ErrConflict) && len(unsure) > 0 {
			isNewest = false // it may be one of those before
			if err = c.confirm(ctx, version, unsure); err == nil {
				c.keepForRetry(next)
			}
		}
		switch {
		case err == nil:
			retry = firstMirrorRetry
			clear(unsure)
			c.setVersion(version, isNewest, next.Settings.isLarge())
		case errors.Is(err, archive.ErrConflict), errors.Is(err, claude.ErrTooLarge):
			p.opts.Logger.Warn("a conversation is not mirrored any more", "user", api.ShortUser(c.user.id), "error", err)
			c.stopMirroring(err)
			return
		case errors.Is(err, errNotWritten), errors.Is(err, archive.ErrPermanent):
			p.opts.Logger.Warn("a turn is not mirrored", "user", api.ShortUser(c.user.id), "error", err)
		default:
			unsure[next.GoodTurn] = true
			if ctx.Err() == nil {
				p.opts.Logger.Warn("the archive can't be written", "error", err, "retry_seconds", retry.Seconds())
				p.sleep(ctx, retry)
				retry = min(2*retry, lastMirrorRetry)
			}
			c.keepForRetry(next)
		}
	}
}

// confirm finds out whether a version that is in the way is one of our own. The error is archive.ErrConflict if it isn't.
func (c *conversation) confirm(ctx context.Context, version int64, ours map[string]bool) error {
	p := c.pool
	r, found, err := p.vault.find(ctx, c.user.keys, c.id, version)
	if err != nil {
		return err
	}
	if found {
		if h, err := openHead(c.user.keys, r); err == nil && ours[h.GoodTurn] {
			return nil
		}
	}
	return archive.ErrConflict
}

var errNotWritten = errors.New("pool: the turn is not in the transcript")

// saveOne stores the conversation as it was after the turn that the head tells of.
func (c *conversation) saveOne(ctx context.Context, dir *workspace, h *head, version int64) error {
	p := c.pool
	text, err := p.written(ctx, dir, h)
	if err != nil {
		return err
	}
	return p.vault.save(ctx, c.user.keys, *h, version, zip(text))
}

// written returns the transcript once the turn stands in it. The end of ctx shortens the wait.
func (p *Pool) written(ctx context.Context, dir *workspace, h *head) ([]byte, error) {
	files, err := dir.files()
	if err != nil {
		return nil, errors.Join(errNotWritten, err)
	}
	defer files.Close()
	transcript := p.starter.transcript(files, dir, h.Session)
	p.sleep(ctx, writtenUsually)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		text, err := transcript.Read(p.opts.ArchiveMaxBytes)
		switch {
		case errors.Is(err, claude.ErrTooLarge):
			return nil, err
		case err == nil && bytes.Contains(text, []byte(h.GoodTurn)):
			return text, nil
		case time.Since(began) > writtenWait, ctx.Err() != nil:
			return nil, errors.Join(errNotWritten, err)
		}
	}
}

// forgetArchived removes what the archive has of a conversation. What it can't remove now expires.
func (c *conversation) forgetArchived() {
	p := c.pool
	if err := c.deleteArchived(); err != nil {
		p.opts.Logger.Warn("an archived conversation is left behind", "user", api.ShortUser(c.user.id), "error", err)
	}
}

func (c *conversation) deleteArchived() error {
	p := c.pool
	if p.vault == nil {
		return nil
	}
	return p.vault.delete(c.user.keys, c.id)
}

// sleep ends early with the pool's life, too.
func (p *Pool) sleep(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)()
	sleep(ctx, d)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
