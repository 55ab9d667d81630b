package pool

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/workspace"
)

const (
	// readsAtOnce is how many transcripts are read at a time to be told or forked: each may have a few times
	// ArchiveMaxBytes in memory.
	readsAtOnce = 4
	// tellWait is how long it may take to tell of a conversation.
	tellWait = 20 * time.Second
)

var (
	errNoSuchConversation = api.NotFound("no such conversation")
	errTellLate           = api.Unavailable(busyRetry, "too many conversations are being read, try again")
)

// glance is what others may know of a conversation at one moment.
type glance struct {
	id       string
	isListed bool // something has been said in it, or is about to be
	running  bool // somebody has its slot
	lastUsed time.Time
	process  *cli.Process
	dir      *workspace.Folder
	archived int64  // not 0: the version of the archive that has what was said in place of dir
	goodTurn string // of one at rest: what counts ends with it
}

// List tells of all the user's conversations, also those that the archive alone has, those used last first. It
// asks for no process and is no use of them. The error is as Acquire's.
func (p *Pool) List(ctx context.Context, req *api.Request, outage bool) ([]api.Conversation, error) {
	u, leave, err := p.visit(ctx, req, outage)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := u.recallAll(ctx, req); err != nil {
		return nil, err
	}
	all := []api.Conversation{}
	for _, c := range u.known() {
		if g := c.look(); g.isListed {
			all = append(all, api.Conversation{ID: g.id, Title: c.title, Created: c.created.UTC(), LastUsed: g.lastUsed.UTC(),
				Running: g.running, Pending: pendingOf(g.process)})
		}
	}
	slices.SortFunc(all, api.Conversation.Compare)
	return all, nil
}

// processNow is the conversation's process at this moment, for who doesn't have its slot; nil: there is none.
func (c *conversation) processNow() *cli.Process { return c.look().process }

// mostAsked is how long all that a process asks may be to be told with its input, in bytes.
const mostAsked = 64 << 10

const mostName = 256 // bytes of a name in what is told of the rest

// pendingOf is what a process has asked its client and waits for, as the client got it; of what is long, its name.
func pendingOf(process *cli.Process) []json.RawMessage {
	pending := []json.RawMessage{}
	if process == nil {
		return pending
	}
	told := 0
	for _, a := range process.Pending() {
		switch {
		case a.Subtype != api.AskTool && a.Subtype != api.AskElicitation:
		case told+len(a.Line) <= mostAsked:
			told += len(a.Line)
			pending = append(pending, a.Line)
		default:
			request := map[string]string{"subtype": a.Subtype}
			for _, name := range []string{"tool_name", "tool_use_id"} {
				if value := gjson.GetBytes(a.Line, "request."+name).Str; value != "" && len(value) <= mostName {
					request[name] = value
				}
			}
			line, _ := json.Marshal(map[string]any{"type": "control_request", "request_id": a.ID, "request": request})
			pending = append(pending, line)
		}
	}
	return pending
}

// Said tells what was said in the conversation of the request's session: up to limit messages before the one of a
// number, 0 for the latest. The error is as Acquire's.
func (p *Pool) Said(ctx context.Context, req *api.Request, outage bool, before, limit int) (
	said api.ConversationMessages, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tellWait, errTellLate)
	defer cancel()
	u, leave, err := p.visit(ctx, req, outage)
	if err != nil {
		return said, err
	}
	defer leave()
	if err := u.recallAll(ctx, req); err != nil {
		return said, err
	}
	c := u.lookUp(req.SessionID)
	if c == nil || !c.look().isListed {
		return said, errNoSuchConversation
	}
	done, err := u.beginRead(ctx)
	if err != nil {
		return said, err
	}
	defer done()
	g := c.look()
	text, err := c.text(ctx, g)
	if err != nil {
		return said, err
	}
	messages, first := claude.Said(text, g.goodTurn, before, limit)
	said = api.ConversationMessages{Messages: []api.Message{}, Before: first}
	for _, m := range messages {
		said.Messages = append(said.Messages, api.Message{Role: m.Role, Content: m.Content})
	}
	return said, nil
}

// beginRead waits until one of the user's transcripts may be read, of which one is at a time.
func (u *user) beginRead(ctx context.Context) (done func(), err error) {
	if err := u.reads.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := u.pool.reads.Acquire(ctx, 1); err != nil {
		u.reads.Release(1)
		return nil, context.Cause(ctx)
	}
	return func() {
		u.pool.reads.Release(1)
		u.reads.Release(1)
	}, nil
}

// text is the transcript of a conversation, or nil where there is none.
func (c *conversation) text(ctx context.Context, g glance) (text []byte, err error) {
	switch {
	case g.archived > 0:
		return c.archivedText(ctx, g.archived)
	case g.dir == nil, !g.running && g.goodTurn == "": // what is there is of turns that failed
		return nil, nil
	}
	err = g.dir.WithTranscript(g.id, func(t claude.Transcript) error {
		text, err = t.Read(c.pool.opts.ArchiveMaxBytes)
		return err
	})
	switch {
	case errors.Is(err, claude.ErrTooLarge):
		return nil, api.Invalid("more was said in this conversation than can be told")
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		c.pool.opts.Logger.WarnContext(ctx, "a transcript can't be read", "user", api.ShortUser(c.user.id), "error", err)
		return nil, api.Unavailable(busyRetry, "what was said can't be told now, try again")
	}
	return text, nil
}

// archivedText is what the archive has as a version of the conversation.
func (c *conversation) archivedText(ctx context.Context, version int64) ([]byte, error) {
	body, err := c.pool.vault.Load(ctx, c.user.keys.Load(), c.id, version)
	var text []byte
	if err == nil {
		text, err = body.Transcript()
	}
	switch {
	case errors.Is(err, archive.ErrPermanent):
		return nil, nil // it is lost: the conversation would begin anew
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		c.user.recalled.Store(nil) // another instance may have saved since
		return nil, api.Unavailable(busyRetry, "what was said can't be fetched now, try again")
	}
	return text, nil
}
