package pool

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/seal"
)

// A conversation outlives its instance by what stands in the archive: after each good turn its transcript is mirrored
// there, and whoever is asked for its user next goes on from it. The workspace's other files stay behind.

const (
	// mirrorWait is how long giving up a user waits for what is being mirrored.
	mirrorWait = 2 * time.Second
	// writtenUsually is how long a CLI takes to write a turn to its transcript. Who asks the next question at once isn't
	// kept from its answer by what is being saved, and what follows closely is saved together.
	writtenUsually = 100 * time.Millisecond
	// writtenWait is how long a CLI may take beyond that.
	writtenWait = 3 * time.Second
	// firstMirrorRetry and lastMirrorRetry are the pauses while the archive is away. A newer turn doesn't shorten them.
	firstMirrorRetry = time.Second
	lastMirrorRetry  = time.Minute
	// recallPause is how long nobody is asked for conversations after the archive has failed to tell, so that an outage
	// doesn't cost every new user its time-out.
	recallPause = 5 * time.Second
)

// mirror is what a conversation has of itself in the archive.
type mirror struct {
	// Guarded by Pool.mu.
	version int64 // the archive's, as far as known here; 0 is none
	next    *head // to be saved, when what is being saved has been
	busy    bool
	off     bool // somebody else goes on with it, or it is too large

	fetch bool // owned by whoever holds the slot: the archive's transcript has to replace what is here
}

// recall is the question what the archive has of a user, asked once each time the user becomes this instance's.
type recall struct {
	done chan struct{}
	err  error // valid when done is closed
}

// recall makes the user's archived conversations known here. While the archive can't tell, a user without any is served
// as a new one, but nobody who asks for a certain conversation that isn't here.
func (p *Pool) recall(ctx context.Context, u *user, req *api.Request) error {
	err := p.recallAll(ctx, u, req)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil || req.SessionID == "" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.conversations[req.SessionID] != nil {
		return nil
	}
	return err
}

// recallAll is recall for who has to know all of them.
func (p *Pool) recallAll(ctx context.Context, u *user, req *api.Request) error {
	if p.opts.Archive == nil {
		return nil
	}
	p.mu.Lock()
	r := u.recall
	if r == nil {
		r = &recall{done: make(chan struct{})}
		u.recall = r
		if u.keys == nil {
			u.keys = seal.Derive(req.Token())
		}
		p.goes(func() { p.find(u, r) })
	}
	p.mu.Unlock()
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

// greetArchive makes the archive's connection, which the first user else would wait for.
func (p *Pool) greetArchive() {
	if _, err := p.opts.Archive.List(p.life, "nobody"); err != nil {
		p.opts.Logger.Warn("the archive can't be read", "error", err)
	}
}

// find answers a recall. A failed one is forgotten after a pause.
func (p *Pool) find(u *user, r *recall) {
	defer close(r.done)
	p.mu.Lock()
	away := time.Since(p.archiveFailed) < recallPause
	p.mu.Unlock()
	if r.err = errArchiveAway; !away {
		var records []archive.Record
		if records, r.err = p.opts.Archive.List(p.life, u.keys.Owner()); r.err == nil {
			p.unlearn(u, records)
			p.enroll(u, records)
			return
		}
		p.opts.Logger.Warn("the archive can't be read, conversations of other instances are unknown", "error", r.err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !away {
		p.archiveFailed = time.Now()
	}
	if u.recall == r {
		u.recall = nil
	}
}

var errArchiveAway = errors.New("pool: the archive is away")

// unlearn forgets conversations that were deleted at another instance, and those that were to be fetched and aren't there
// any more.
func (p *Pool) unlearn(u *user, records []archive.Record) {
	deleted := make(map[string]bool) // by name; false: it is there
	for _, r := range records {
		deleted[r.Name] = r.Deleted
	}
	var lost []*conversation
	p.mu.Lock()
	for _, c := range u.conversations {
		isDeleted, isListed := deleted[u.keys.Name(c.id)]
		gone := isDeleted && c.mirror.version > 0 || !isListed && c.mirror.fetch
		if gone && !c.held && c.process == nil && !c.mirror.busy {
			u.loseLocked(c)
			lost = append(lost, c)
		}
	}
	p.mu.Unlock()
	for _, c := range lost {
		p.goes(func() { p.dropFiles(c) })
	}
}

// enroll enters what the archive has among the user's conversations.
func (p *Pool) enroll(u *user, records []archive.Record) {
	for _, r := range records {
		if r.Deleted {
			continue
		}
		h, err := openHead(u.keys, r)
		if err != nil {
			p.opts.Logger.Warn("an archived conversation can't be read", "user", api.ShortUser(u.id), "error", err)
			continue
		}
		if permissionRank(h.Settings.Permission) > permissionRank(p.opts.PermissionMode) {
			h.Settings.Permission = p.opts.PermissionMode
		}
		if !p.opts.Confined {
			h.Settings.MCP = withoutCommands(h.Settings.MCP)
		}
		p.mu.Lock()
		u.enrollLocked(r.Version, h)
		p.mu.Unlock()
	}
}

func (u *user) enrollLocked(version int64, h *head) {
	c := u.conversations[h.Session]
	switch {
	case c == nil:
		c = &conversation{id: h.Session, user: u}
		u.conversations[c.id] = c
	case c.born == h.Born && c.mirror.version >= version || c.mirror.busy:
		return
	case c.held || c.process != nil:
		c.mirror.off = true // it was begun here while the archive could not be asked
		return
	}
	c.born, c.named, c.lastUsed, c.settled, c.goodTurn, c.seed = h.Born, h.Named, time.Now(), true, h.GoodTurn, nil
	copy(c.digest[:], h.Digest)
	c.settings = h.Settings.settings()
	c.mirror = mirror{version: version, fetch: true}
	if h.Standard {
		u.standard = c
	}
}

// fetch puts the archived transcript in its place. What another instance has saved meanwhile is not known here: then
// the caller comes back, and the user is recalled again.
func (p *Pool) fetch(ctx context.Context, c *conversation, transcript claude.Transcript) error {
	p.mu.Lock()
	version := c.mirror.version
	p.mu.Unlock()
	name := c.user.keys.Name(c.id)
	sealed, err := p.opts.Archive.Load(ctx, c.user.keys.Owner(), name, version)
	if err != nil {
		p.opts.Logger.Warn("an archived conversation can't be fetched", "user", api.ShortUser(c.user.id), "error", err)
		p.mu.Lock()
		c.user.recall = nil
		p.mu.Unlock()
		return api.Unavailable(time.Second, "this conversation can't be fetched now, try again")
	}
	text, err := c.user.keys.Open(sealed, seal.Place{Name: name, Version: version, Part: "body"})
	if err == nil {
		text, err = unzip(text)
	}
	if err == nil {
		err = transcript.Restore(text)
	}
	if err != nil {
		return fmt.Errorf("pool: fetch: %w", err)
	}
	c.mirror.fetch, c.dirty = false, true // what it has beyond the last good turn doesn't count
	return nil
}

// mirror has the held conversation, after a good turn, saved in the background. The newest turn wins.
func (p *Pool) mirror(c *conversation) {
	if p.opts.Archive == nil || c.goodTurn == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.mirror.off || c.user.keys == nil {
		return
	}
	c.mirror.next = c.headLocked()
	if c.mirror.busy {
		return
	}
	c.mirror.busy = true
	u, dir := c.user, c.dir
	if u.mirroring == 0 {
		u.mirrored = make(chan struct{})
	}
	u.mirroring++
	p.goes(func() {
		p.mirrorAll(c, dir)
		p.mu.Lock()
		defer p.mu.Unlock()
		if u.mirroring--; u.mirroring == 0 {
			close(u.mirrored)
		}
	})
}

// mirrorAll saves until nothing newer is to be saved.
func (p *Pool) mirrorAll(c *conversation, dir *workspace) {
	retry := firstMirrorRetry
	unsure := make(map[string]bool) // last good turns of what may have been saved, though no answer said so
	for {
		p.mu.Lock()
		next := c.mirror.next
		c.mirror.next = nil
		c.mirror.busy = next != nil
		version := c.mirror.version + 1
		p.mu.Unlock()
		if next == nil {
			return
		}
		err := p.save(c, dir, next, version)
		if errors.Is(err, archive.ErrConflict) && len(unsure) > 0 {
			if err = p.confirm(c, version, unsure); err == nil {
				p.keepForRetry(c, next)
			}
		}
		switch {
		case err == nil:
			retry = firstMirrorRetry
			clear(unsure)
			p.mu.Lock()
			c.mirror.version = version
			p.mu.Unlock()
		case errors.Is(err, archive.ErrConflict), errors.Is(err, claude.ErrTooLarge):
			p.opts.Logger.Warn("a conversation is not mirrored any more", "user", api.ShortUser(c.user.id), "error", err)
			p.stopMirroring(c, err)
			return
		case errors.Is(err, errNotWritten):
			p.opts.Logger.Warn("a turn is not mirrored", "user", api.ShortUser(c.user.id), "error", err)
		default:
			p.opts.Logger.Warn("the archive can't be written", "error", err, "retry_seconds", retry.Seconds())
			unsure[next.GoodTurn] = true
			sleep(p.life, retry)
			retry = min(2*retry, lastMirrorRetry)
			p.keepForRetry(c, next)
		}
	}
}

// confirm finds out whether a version that is in the way is one of our own. The error is archive.ErrConflict if it isn't.
func (p *Pool) confirm(c *conversation, version int64, ours map[string]bool) error {
	keys := c.user.keys
	records, err := p.opts.Archive.List(context.WithoutCancel(p.life), keys.Owner())
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Name != keys.Name(c.id) || r.Version != version || r.Deleted {
			continue
		}
		if h, err := openHead(keys, r); err == nil && ours[h.GoodTurn] {
			return nil
		}
	}
	return archive.ErrConflict
}

// keepForRetry has the same saved again if nothing newer is to be, unless the user is somebody else's by now: who has
// gone on with the conversation there must not be overtaken.
func (p *Pool) keepForRetry(c *conversation, h *head) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !c.user.owned || p.life.Err() != nil:
		c.mirror.next = nil
	case c.mirror.next == nil:
		c.mirror.next = h
	}
}

// stopMirroring gives a conversation up. What the archive has of one that has become too large is removed: to go on
// from there would lose what was said since.
func (p *Pool) stopMirroring(c *conversation, why error) {
	p.mu.Lock()
	c.mirror.busy, c.mirror.off, c.mirror.next = false, true, nil
	p.mu.Unlock()
	if errors.Is(why, claude.ErrTooLarge) {
		p.forgetArchived(c)
	}
}

var errNotWritten = errors.New("pool: the turn is not in the transcript")

// save seals the conversation as it was after the turn that the head tells of, and stores it.
func (p *Pool) save(c *conversation, dir *workspace, h *head, version int64) error {
	text, err := p.written(dir, h)
	if err != nil {
		return err
	}
	return p.store(c.user.keys, h, version, zip(text))
}

// store seals a conversation and saves it.
func (p *Pool) store(keys *seal.Keys, h *head, version int64, zipped []byte) error {
	told, err := json.Marshal(h)
	if err != nil {
		return err
	}
	name := keys.Name(h.Session)
	r := archive.Record{Name: name, Version: version, Head: keys.Seal(told, seal.Place{Name: name, Version: version, Part: "head"})}
	return p.opts.Archive.Save(context.WithoutCancel(p.life), keys.Owner(), r, keys.Seal(zipped, seal.Place{Name: name, Version: version, Part: "body"}))
}

// written returns the transcript once the turn stands in it.
func (p *Pool) written(dir *workspace, h *head) ([]byte, error) {
	files, err := dir.files()
	if err != nil {
		return nil, errors.Join(errNotWritten, err)
	}
	defer files.Close()
	transcript := p.transcript(files, dir, h.Session)
	sleep(p.life, writtenUsually)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		text, err := transcript.Read(p.opts.ArchiveMaxBytes)
		switch {
		case errors.Is(err, claude.ErrTooLarge):
			return nil, err
		case err == nil && bytes.Contains(text, []byte(h.GoodTurn)):
			return text, nil
		case time.Since(began) > writtenWait:
			return nil, errors.Join(errNotWritten, err)
		}
	}
}

// awaitMirrored waits a while for what is being saved of the user's conversations, so that the next owner finds it. It
// reports whether nothing is being saved any more.
func (p *Pool) awaitMirrored(u *user) bool {
	p.mu.Lock()
	busy, done := u.mirroring > 0, u.mirrored
	p.mu.Unlock()
	if !busy {
		return true
	}
	select {
	case <-done:
		return true
	case <-time.After(mirrorWait):
		return false
	}
}

// zippers keeps gzip writers, each of which is more than a megabyte.
var zippers = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level exists
	return w
}}

func zip(text []byte) []byte {
	var b bytes.Buffer
	w := zippers.Get().(*gzip.Writer)
	defer zippers.Put(w)
	w.Reset(&b)
	_, _ = w.Write(text) // to memory
	_ = w.Close()
	return b.Bytes()
}

func unzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
