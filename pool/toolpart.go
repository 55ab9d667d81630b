package pool

import (
	"context"
	"encoding/json"
	"time"

	"claudepool/pool/api"
)

// ToolPart is one request's part of a turn whose model may call tools that the client runs: from its message, or from
// the results of such calls, to the next calls or to the turn's end. Its methods are for one goroutine.
type ToolPart struct {
	turn    *toolTurn
	user    *user // nil in the first part, whose Handle has it
	req     *api.Request
	outage  bool // as Admit was told
	came    time.Time
	before  int64 // API calls of the process before it
	isBegun bool
	isLost  bool // the turn has died without having gone on

	sent    func()
	emit    func(ctx context.Context, lines [][]byte) error
	done    chan struct{} // closed at its end, before which nobody else reads the following
	receipt api.Receipt
	first   time.Duration // as Handle.FirstToken; of the first part alone
	failed  bool          // as Handle.IsError
	err     error
}

// AcquireWithTools does what Acquire does for a request whose client runs tools. One that brings the results for which
// a turn waits goes on with that turn.
func (p *Pool) AcquireWithTools(ctx context.Context, req *api.Request, outage bool) (*ToolPart, error) {
	if req.HasResults() {
		part, err := nextPart(ctx, p, req, outage)
		if part != nil || err != nil {
			return part, err
		}
	}
	t, err := newToolTurn(ctx, p, req, outage)
	if err != nil {
		return nil, err
	}
	return &ToolPart{turn: t, req: req, outage: outage, came: time.Now()}, nil
}

func newToolTurn(ctx context.Context, p *Pool, req *api.Request, outage bool) (*toolTurn, error) {
	h, err := p.Acquire(ctx, req, outage)
	if err != nil {
		return nil, err
	}
	t := &toolTurn{h: h, user: h.user.id, attached: make(chan struct{}), open: openCalls{begun: make(map[string]bool)}}
	h.tools = t
	return t, nil
}

// nextPart takes the turn that waits for the request's results, nil if there is none.
func nextPart(ctx context.Context, p *Pool, req *api.Request, outage bool) (*ToolPart, error) {
	u, err := p.enter(ctx, req, outage)
	if err != nil {
		return nil, err
	}
	t, err := u.takeWaiting(ctx, req)
	if t == nil || err != nil {
		u.leave()
		return nil, err
	}
	return &ToolPart{turn: t, user: u, req: req, outage: outage, came: time.Now()}, nil
}

func (u *user) takeWaiting(ctx context.Context, req *api.Request) (*toolTurn, error) {
	if spent := u.pool.budgets.check(ctx, u.id, req.ServiceKey); spent != nil {
		return nil, spent
	}
	results, _ := req.Answered()
	t, err := u.pool.toolWaits.take(u.id, results)
	if t == nil && err == nil && req.SessionID != "" && u.lookUp(req.SessionID) != nil {
		err = errNotWaiting // what was said before the results isn't in it
	}
	return t, err
}

// Run is as Handle.Run. It also ends, without an error, when the turn waits for the client. Where the turn that it was
// to go on with turns out to have died before it took the results up, a new one does, which is told all that was said.
func (part *ToolPart) Run(ctx context.Context, sent func(),
	emit func(ctx context.Context, lines [][]byte) error) error {
	part.sent, part.emit, part.isBegun = sent, emit, true
	if part.user != nil {
		if part.goOn() {
			part.await(ctx)
		}
		if part.err == nil || !part.isLost {
			return part.err
		}
		if err := part.beginAnew(ctx); err != nil {
			return err
		}
	}
	part.begin(ctx)
	part.await(ctx)
	return part.err
}

// begin begins a turn.
func (part *ToolPart) begin(ctx context.Context) {
	t := part.turn
	part.done = make(chan struct{})
	t.ctx, t.cut = context.WithCancelCause(context.WithoutCancel(ctx))
	t.part = part
	go t.run()
}

// goOn goes on with a turn that has waited, and reports whether there still is one.
func (part *ToolPart) goOn() bool {
	t := part.turn
	part.done = make(chan struct{})
	part.receipt = api.Receipt{Process: ProcessReused, PID: t.h.pid, Ready: milliseconds(time.Since(part.came)),
		Context: api.ContextKept}
	calls, goesOn := t.attach(part)
	if !goesOn {
		part.err, part.isLost = errLost, true
		return false
	}
	results, beside := part.req.Answered()
	go t.give(calls, results, beside) // a CLI may take its time to read them
	return true
}

// beginAnew gets another turn in the place of the one that is lost.
func (part *ToolPart) beginAnew(ctx context.Context) error {
	u, p := part.user, part.user.pool
	if part.req.SessionID != "" {
		return errNotWaiting
	}
	t, err := newToolTurn(ctx, p, part.req, part.outage)
	if err != nil {
		return err
	}
	u.leave()
	part.turn, part.user, part.isLost = t, nil, false
	return nil
}

// await waits for the part's end, or ends the turn with ctx.
func (part *ToolPart) await(ctx context.Context) {
	select {
	case <-part.done:
		return
	case <-ctx.Done():
	}
	select {
	case <-part.done: // then the client has all of it
	default:
		part.turn.cut(context.Cause(ctx))
		<-part.done
	}
}

// count counts the API calls of a part that ends.
func (part *ToolPart) count() {
	if part.user == nil {
		part.first = part.turn.h.FirstToken()
	}
	if proc := part.turn.h.process; proc != nil {
		part.receipt.APICalls = proc.Passed() - part.before
	}
}

// conclude has the receipt of a part tell how the turn has ended.
func (part *ToolPart) conclude() {
	h := part.turn.h
	of := h.Receipt()
	part.failed = h.IsError()
	part.count()
	if part.user == nil {
		part.receipt = of
		return
	}
	part.receipt.CostUSD = of.CostUSD
	hasDied := h.process == nil || !h.process.Alive()
	part.isLost = hasDied && part.receipt.APICalls == 0 && part.turn.ctx.Err() == nil
}

// end ends the part.
func (part *ToolPart) end(err error) {
	part.err = err
	close(part.done)
}

// Receipt is as Handle.Receipt. What a turn with several parts has taken in tokens is told with its answers alone.
func (part *ToolPart) Receipt() api.Receipt { return part.receipt }

// FirstToken is as Handle.FirstToken. Only a turn's first part tells it.
func (part *ToolPart) FirstToken() time.Duration { return part.first }

// IsError is as Handle.IsError.
func (part *ToolPart) IsError() bool { return part.failed }

// Interrupt is as Handle.Interrupt.
func (part *ToolPart) Interrupt(ctx context.Context) error { return part.turn.h.Interrupt(ctx) }

// Steer is as Handle.Steer.
func (part *ToolPart) Steer(uuid string, content json.RawMessage, priority string) error {
	return part.turn.h.Steer(uuid, content, priority)
}

// SetAway does nothing: the client of such a turn isn't asked for approval.
func (*ToolPart) SetAway(bool) {}

// Release gives the conversation to the next in line, unless its turn waits.
func (part *ToolPart) Release() {
	t := part.turn
	switch {
	case part.user == nil && !part.isBegun:
		t.h.Release()
	case part.user != nil:
		part.user.leave()
	}
}
