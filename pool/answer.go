package pool

import (
	"context"
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
	away    atomic.Bool
}

// Asked shows the client what it can answer.
func (c *client) Asked(a cli.Ask) cli.Taking {
	if c.away.Load() || a.Subtype != api.AskTool && a.Subtype != api.AskElicitation {
		return cli.Refuse
	}
	return cli.Show
}

// Withdrawn does nothing: the client sees it.
func (*client) Withdrawn(string) {}

// setAway says whether the client has been away for so long that it isn't waited for.
func (c *client) setAway(away bool) {
	c.away.Store(away)
	if !away {
		return
	}
	for _, a := range c.process.Pending() {
		_ = c.process.Decline(a.ID) // unless somebody has answered
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
	if !h.req.Interactive {
		return func() {}
	}
	c, process := &client{process: h.process}, h.process
	h.client.Store(c)
	process.SetHost(c)
	return func() { process.SetHost(nil) }
}

// Answer gives a turn that runs what it has asked of its client. The error is an *api.Error where the client is to know
// it, the Ownership's, ErrDraining or ctx's cause.
func (p *Pool) Answer(ctx context.Context, a *api.Answer, outage bool) error {
	letGo, err := p.Hold(ctx, a.Request, outage)
	if err != nil {
		return err
	}
	defer letGo()
	c := p.table.find(a.UserID()).lookUp(a.SessionID)
	if c == nil {
		return errNotAsked
	}
	process := c.processNow()
	if process == nil {
		return errNotAsked
	}
	answer := json.RawMessage(a.Response.Raw)
	if asked, ok := process.PendingAsk(a.ID); ok { // else it may be the same answer again
		setsMode, err := api.Answers(gjson.GetBytes(asked.Line, "request"), a.Response, p.mayMode)
		if err != nil {
			return err
		}
		if setsMode {
			process.PermissionChanged()
		}
	}
	if err = process.Answer(a.ID, answer); errors.Is(err, cli.ErrNotAsked) {
		return errNotAsked
	}
	return err
}

// mayMode reports whether clients may have a permission mode.
func (p *Pool) mayMode(mode string) bool {
	return permissionRank(mode) <= permissionRank(p.opts.PermissionMode)
}
