package pool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/confine"
)

// conversation is one of a user's conversations. It outlives its process: a conversation whose process was reaped is
// resumed from its transcript.
type conversation struct {
	user  *user
	named bool // a client chose the id

	// Guarded by Pool.mu.
	id       string      // the CLI's session id; until the first process of an unnamed one it may still change
	held     bool        // somebody works on it: a turn, or whoever stops its process
	waiters  []chan bool // first come, first served; buffered by one: true hands the slot over, false sends away
	process  *process    // nil while there is none
	digest   [32]byte    // of the messages so far, see api.HistoryDigest
	settled  bool        // digest is right: no turn is changing it
	lastUsed time.Time
	mirror   mirror // see there
	gone     bool   // deleted, or moved to another user: not to be used by who waited for it
	born     string // unique: after a deletion another one may begin under the same id

	// Owned by whoever holds the slot.
	settings settings
	seed     []api.Message // history to begin with, until it stands in a transcript
	dir      *workspace    // nil until the first process
	dirty    bool          // the transcript may hold a turn that failed
	goodTurn string        // uuid of the last assistant message of the last good turn, or of the seed
}

// idleLocked reports whether the conversation has a process that nobody uses.
func (c *conversation) idleLocked() bool {
	return c.process != nil && !c.held && len(c.waiters) == 0
}

// dismissWaitersLocked wakes all waiters without giving them the slot.
func (c *conversation) dismissWaitersLocked() {
	for _, w := range c.waiters {
		w <- false
	}
	c.waiters = nil
}

// hold takes the conversation's slot, waiting for it in line.
func (p *Pool) hold(ctx context.Context, c *conversation) error {
	p.mu.Lock()
	if !c.held {
		c.held = true
		p.mu.Unlock()
		return nil
	}
	if p.draining {
		p.mu.Unlock()
		return ErrDraining
	}
	if len(c.waiters) >= p.opts.QueueLimit {
		p.mu.Unlock()
		return api.RateLimited(time.Second, "%d requests of this conversation are waiting already", p.opts.QueueLimit)
	}
	turn := make(chan bool, 1)
	c.waiters = append(c.waiters, turn)
	p.mu.Unlock()

	timeout := time.NewTimer(p.opts.QueueTimeout)
	defer timeout.Stop()
	var err error
	select {
	case mine := <-turn:
		if !mine {
			return ErrDraining
		}
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timeout.C:
		err = api.RateLimited(time.Second, "waited for %s behind this conversation's other requests", p.opts.QueueTimeout)
	}
	p.mu.Lock()
	i := slices.Index(c.waiters, turn)
	if i >= 0 {
		c.waiters = slices.Delete(c.waiters, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 && <-turn {
		p.yield(c) // the slot came while we were leaving
	}
	return err
}

// yield hands the conversation's slot to the next in line.
func (p *Pool) yield(c *conversation) {
	p.mu.Lock()
	if len(c.waiters) > 0 {
		c.waiters[0] <- true
		c.waiters = c.waiters[1:]
	} else {
		c.held = false
	}
	retire := p.draining || c.user.leaving || c.process != nil && !c.process.alive()
	p.mu.Unlock()
	signal(p.wake)
	signal(p.changed)
	if retire {
		p.retireIdle(func(o *conversation) bool { return o == c })
	}
}

// pick finds or begins the conversation a request is meant for.
func (p *Pool) pick(u *user, req *api.Request) *conversation {
	p.mu.Lock()
	defer p.mu.Unlock()
	history := req.History()
	switch {
	case req.SessionID != "":
		if c := u.conversations[req.SessionID]; c != nil {
			return c
		}
		c := u.beginLocked(req.SessionID, history)
		c.named = true
		return c
	case len(history) > 0:
		digest := api.HistoryDigest(history)
		for _, c := range u.conversations {
			if c.settled && c.digest == digest {
				return c
			}
		}
		return u.beginLocked(uuid.NewString(), history)
	}
	if u.standard == nil {
		u.standard = u.beginLocked(uuid.NewString(), nil)
	}
	return u.standard
}

func (u *user) beginLocked(id string, history []api.Message) *conversation {
	c := &conversation{id: id, user: u, born: uuid.NewString(), seed: history, digest: api.HistoryDigest(history), settled: true, lastUsed: time.Now()}
	u.conversations[id] = c
	return c
}

// fits reports whether the conversation, now held, still is the one the request is meant for: a turn that went before
// may have moved it on.
func (p *Pool) fits(c *conversation, req *api.Request) bool {
	history := req.History()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.gone || req.SessionID != "" || len(history) == 0 {
		return !c.gone
	}
	return c.digest == api.HistoryDigest(history)
}

// workspace is a conversation's own place in the file system. Its processes can do there what they like, so whatever is
// looked for in it is looked for from its root on, never by a whole path: see files.
type workspace struct {
	root, home, temp, cwd string
}

// The folders of a workspace.
const (
	homeFolder = "home"
	tempFolder = "tmp"
	workFolder = "work"
)

// files opens the workspace for the service's own use: no link in it leads out.
func (w *workspace) files() (*os.Root, error) { return os.OpenRoot(w.root) }

// newWorkspace makes a workspace under an opaque name.
func (p *Pool) newWorkspace() (*workspace, error) {
	root, err := p.opts.Launcher.NewWorkspace(homeFolder, tempFolder, workFolder)
	if errors.Is(err, confine.ErrNoUID) {
		p.opts.Logger.Error("no conversation can begin until files of old ones are removed", "error", err)
		return nil, api.Overloaded(time.Minute, "this instance keeps as many conversations as it can")
	}
	if err != nil {
		return nil, err
	}
	return &workspace{root: root, home: filepath.Join(root, homeFolder), temp: filepath.Join(root, tempFolder), cwd: filepath.Join(root, workFolder)}, nil
}

// settle gives the workspace to the held conversation and enters it in the index.
func (p *Pool) settle(c *conversation, w *workspace) error {
	if err := p.index.enter(c.user.id, c.id, w); err != nil {
		return err
	}
	c.dir = w
	return nil
}

// removeWorkspace removes a conversation's files and their entry in the index.
func (p *Pool) removeWorkspace(c *conversation) error {
	if c.dir == nil {
		return nil
	}
	return errors.Join(p.index.strike(c.user.id, c.id, c.dir), p.opts.Launcher.RemoveWorkspace(c.dir.root))
}

// transcript is that of a session in the workspace whose files are given.
func (p *Pool) transcript(files *os.Root, w *workspace, session string) claude.Transcript {
	return claude.Transcript{Files: files, Home: homeFolder, Cwd: w.cwd, SessionID: session, Owner: p.opts.Launcher.Owner(w.root)}
}

// prepare makes the conversation's files ready for a process and says what it has to resume, if anything.
func (p *Pool) prepare(ctx context.Context, c *conversation) (claude.Options, error) {
	var err error
	opts := claude.Options{SessionID: c.id, Model: c.settings.model, FallbackModel: c.settings.fallback,
		PermissionMode: c.settings.permission, AllowBypass: p.opts.PermissionMode == "bypassPermissions"}
	if c.dir == nil {
		w, err := p.newWorkspace()
		if err != nil {
			return opts, err
		}
		if err := p.settle(c, w); err != nil {
			return opts, errors.Join(err, p.opts.Launcher.RemoveWorkspace(w.root))
		}
	}
	files, err := c.dir.files()
	if err != nil {
		return opts, err
	}
	defer files.Close()
	transcript := p.transcript(files, c.dir, c.id)
	if c.mirror.fetch {
		if err := p.fetch(ctx, c, transcript); err != nil {
			return opts, err
		}
	}
	if c.dirty && c.goodTurn == "" {
		if err := transcript.Remove(); err != nil {
			return opts, err
		}
		c.dirty = false
	}
	exists, err := transcript.Exists()
	if err != nil {
		return opts, err
	}
	if !exists && len(c.seed) > 0 {
		if c.goodTurn, err = transcript.Write(historyOf(c.seed), time.Now()); err != nil {
			return opts, err
		}
		exists = true
	}
	if c.goodTurn != "" {
		c.seed = nil
	}
	opts.Resume = exists
	if exists && c.dirty {
		opts.ResumeAt = c.goodTurn
	}
	return opts, nil
}

func historyOf(messages []api.Message) []claude.HistoryMessage {
	history := make([]claude.HistoryMessage, len(messages))
	for i, m := range messages {
		history[i] = claude.HistoryMessage{Role: m.Role, Content: m.Content}
	}
	return history
}
