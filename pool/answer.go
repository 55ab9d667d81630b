package pool

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"sync/atomic"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/cli"
)

// errNotAsked is for an answer that comes too late, or to nothing.
var errNotAsked = api.NotFound("nothing is asked under this request_id: it was answered, was given up, or its time " +
	"is over")

// client is whom the process of an interactive turn asks: whoever reads the turn's stream. Its methods may be called
// concurrently.
type client struct {
	process *cli.Process
	rest    cli.Host // who is asked all else; nil: nobody
	away    atomic.Bool
}

// Asked shows the client what it can answer.
func (c *client) Asked(a cli.Ask) cli.Taking {
	isTheirs := a.Subtype == api.AskTool || a.Subtype == api.AskElicitation
	switch {
	case !isTheirs && c.rest != nil:
		return c.rest.Asked(a)
	case !isTheirs, c.away.Load():
		return cli.Refuse
	}
	return cli.Show
}

// Withdrawn has to tell nobody of what the client sees.
func (c *client) Withdrawn(id string) {
	if c.rest != nil {
		c.rest.Withdrawn(id)
	}
}

// setAway says whether the client has been away for so long that it isn't waited for.
func (c *client) setAway(away bool) {
	if c.away.Store(away); away {
		c.process.DeclineAll(c)
	}
}

// SetAway says whether nobody has read the turn's stream for so long that what the turn asks is answered with a no. It
// may be called concurrently with Run.
func (h *Handle) SetAway(away bool) {
	if c := h.client.Load(); c != nil {
		c.setAway(away)
	}
}

// listen has the client answer what is asked in the turn, until stop is called.
func (h *Handle) listen() (stop func()) {
	if h.tools != nil {
		return h.tools.listen()
	}
	if !h.req.Interactive || h.req.Host != nil {
		return func() {}
	}
	c, process := &client{process: h.process, rest: h.restOf(h.process)}, h.process
	if before := h.client.Load(); before != nil { // of a process that died
		c.away.Store(before.away.Load())
	}
	h.client.Store(c)
	process.SetHost(c)
	return func() {
		process.SetHost(c.rest)
		process.DeclineAll(c)
	}
}

// Answer gives a turn that runs what it has asked of its client, who may have another token by now. Turns are answered
// as long as they run, also when their user or the instance takes no others any more. The error is an *api.Error where
// the client is to know it, the Ownership's, ErrDraining or ctx's cause.
func (p *Pool) Answer(ctx context.Context, a *api.Answer, outage bool) error {
	for _, req := range []*api.Request{a.Request, a.Former()} {
		process := p.table.processOf(req, a.SessionID)
		if process == nil {
			continue
		}
		if err := pass(a, process, p.opts.mayMode); !errors.Is(err, errNotAsked) {
			return err
		}
	}
	letGo, err := p.Hold(ctx, a.Request, outage) // another instance may have the user
	if err != nil {
		return err
	}
	letGo()
	return errNotAsked
}

// processOf is the process that a user's conversation has now, or nil.
func (t *table) processOf(req *api.Request, session string) *cli.Process {
	if req == nil {
		return nil
	}
	u, digest := t.find(req.UserID()), req.UserDigest()
	if u == nil || subtle.ConstantTimeCompare(u.digest[:], digest[:]) != 1 {
		return nil
	}
	c := u.lookUp(session)
	if c == nil {
		return nil
	}
	return c.processNow()
}

// pass passes an answer on to a process, if it is one that clients may give.
func pass(a *api.Answer, process *cli.Process, mayMode func(string) bool) error {
	if asked, ok := process.PendingAsk(a.ID); ok { // else it may be the same answer again
		setsMode, err := api.Answers(gjson.GetBytes(asked.Line, "request"), a.Response, mayMode)
		if err != nil {
			return err
		}
		if setsMode {
			process.PermissionChanged()
		}
	}
	err := process.AnswerFor(a.ID, json.RawMessage(a.Response.Raw))
	if errors.Is(err, cli.ErrNotAsked) || errors.Is(err, cli.ErrDied) {
		return errNotAsked
	}
	return err
}

// permissions are what clients may permit processes to do.
func (o *Options) permissions() api.Permissions {
	return api.Permissions{MayMode: o.mayMode, MayApprove: o.Approvals}
}

// mayMode reports whether clients may have a permission mode.
func (o *Options) mayMode(mode string) bool {
	return permissionRank(mode) <= permissionRank(o.PermissionMode)
}
