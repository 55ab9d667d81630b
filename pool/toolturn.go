package pool

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
)

// settleTime is for how long nothing may happen before a turn waits for its client although not all calls of the
// message have been begun: the CLI runs some tools one after the other, and tools of its own may go on for long.
const settleTime = 250 * time.Millisecond

// toolTurn is a turn whose model may call tools that its client runs. The API's answer that calls them ends the
// request, but not the turn: that waits, and goes on within the next request, which brings the results. So it runs in
// a goroutine of its own, and the requests are its parts.
type toolTurn struct {
	h    *Handle
	user string
	ctx  context.Context
	cut  context.CancelCauseFunc

	mu       sync.Mutex // guards the following; held while lines are handed over
	part     *ToolPart  // that gets what comes; nil: there is none, and the turn waits
	attached chan struct{}
	ended    bool
	answer   answer
	settle   *time.Timer // nil: nothing is about to happen

	calls []*clientCall // for which the turn waits; not to be changed while it does
	since time.Time     // when it began to

	open openCalls
	rest cli.Host // is asked what isn't of the client's tools; nil: nobody
}

// clientCall is one that the CLI has begun.
type clientCall struct {
	api.ToolCall
	ask     string // by which it is answered
	message claude.MCPMessage
}

// openCalls are those that the CLI waits for, and the ids of all that it has ever begun.
type openCalls struct {
	mu    sync.Mutex // guards the following
	open  []*clientCall
	begun map[string]bool
	last  time.Time
}

// listen has the process ask for the client's tools here, until stop is called.
func (t *toolTurn) listen() (stop func()) {
	process, rest := t.h.process, t.h.restOf(t.h.process)
	t.rest = rest
	process.SetHost(t)
	return func() { process.SetHost(rest) }
}

// Asked implements cli.Host.
func (t *toolTurn) Asked(a cli.Ask) cli.Taking {
	if a.Subtype == "mcp_message" {
		if m := claude.ReadMCP(a.Line); m.Server == api.ToolServer && m.Method == claude.MCPCall {
			return t.called(a, m)
		}
	}
	if t.rest == nil {
		return cli.Refuse
	}
	return t.rest.Asked(a)
}

// called takes a call of one of the client's tools.
func (t *toolTurn) called(a cli.Ask, m claude.MCPMessage) cli.Taking {
	id, name, input := m.Call()
	if id == "" {
		return cli.Refuse
	}
	t.open.mu.Lock()
	defer t.open.mu.Unlock()
	id = strings.Clone(id) // it is kept longer than what it was asked in
	t.open.open = append(t.open.open, &clientCall{api.ToolCall{ID: id, Name: name, Input: input}, a.ID, m})
	t.open.begun[id], t.open.last = true, time.Now()
	go t.look() // it may have to wait for whoever reads the lines
	return cli.Take
}

// Withdrawn implements cli.Host. What nobody has answered in time while the turn waited nobody will.
func (t *toolTurn) Withdrawn(ask string) {
	if !t.open.remove(ask) {
		if t.rest != nil {
			t.rest.Withdrawn(ask)
		}
		return
	}
	if t.h.pool.toolWaits.remove(t) {
		t.cut(errNoResults)
	}
}

// remove takes a call out, and reports whether it was there.
func (o *openCalls) remove(ask string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.open)
	o.open = slices.DeleteFunc(o.open, func(c *clientCall) bool { return c.ask == ask })
	return len(o.open) < before
}

// list is what is open, whether all of these ids have ever been begun, and when that was changed last.
func (o *openCalls) list(ids map[string]bool) (open []*clientCall, all bool, last time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	all = true
	for id := range ids {
		all = all && o.begun[id]
	}
	return slices.Clone(o.open), all, o.last
}

// run runs the turn to its end.
func (t *toolTurn) run() {
	defer t.cut(nil)
	err := t.h.Run(t.ctx, t.sent, t.emit)
	t.mu.Lock()
	t.ended = true // before it is taken out of those that wait, or it might join them again
	part := t.part
	t.part = nil
	t.mu.Unlock()
	t.h.pool.toolWaits.remove(t)
	if part == nil {
		t.h.Release()
		return
	}
	part.conclude()
	t.h.Release()
	part.end(err)
}

// sent is called by Handle.Run, as emit is.
func (t *toolTurn) sent() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.part != nil { // as it is at the turn's beginning
		t.part.receipt = t.h.Receipt()
		t.part.sent()
	}
}

// emit hands lines to the part that there is, or waits for the next one.
func (t *toolTurn) emit(ctx context.Context, lines [][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.part == nil {
		attached := t.attached
		t.mu.Unlock()
		select {
		case <-attached:
		case <-ctx.Done():
		}
		t.mu.Lock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	for _, line := range lines {
		t.answer.note(line)
	}
	if err := t.part.emit(ctx, lines); err != nil {
		return err
	}
	t.answer.last = time.Now() // a client may have taken its time to read
	t.lookLocked()
	return nil
}

// look sees whether the turn waits for its client.
func (t *toolTurn) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lookLocked()
}

func (t *toolTurn) lookLocked() {
	if t.part == nil || t.ended || t.answer.streaming {
		return
	}
	open, all, last := t.open.list(t.answer.clients)
	if len(open) == 0 || !t.answer.knows(open) { // a call overtakes the lines before it, if their reader is slow
		return
	}
	if quiet := min(time.Since(last), time.Since(t.answer.last)); (!all || len(t.answer.own) > 0) && quiet < settleTime {
		if t.settle == nil {
			t.settle = time.AfterFunc(settleTime, t.look)
		}
		t.settle.Reset(settleTime - quiet)
		return
	}
	t.waitLocked(open)
}

// waitLocked ends the part with the calls that are open.
func (t *toolTurn) waitLocked(open []*clientCall) {
	part := t.part
	t.calls, t.since, t.part = open, time.Now(), nil
	calls := make([]api.ToolCall, len(open))
	for i, c := range open {
		calls[i] = c.ToolCall
	}
	t.h.bill.settle()
	mayWait := t.h.pool.toolWaits.add(t) // before the client can know of it
	t.h.sendAway()
	err := part.emit(t.ctx, [][]byte{api.ToolCallsEvent(calls)})
	part.count()
	part.end(err)
	if err != nil {
		t.h.pool.toolWaits.remove(t)
		t.cut(err)
	}
	if !mayWait {
		t.cut(errOvertaken)
	}
}

// missing are the ids of calls without a result.
func (t *toolTurn) missing(results []api.ToolResult) (ids []string) {
	for _, c := range t.calls {
		if resultOf(results, c.ID) == nil {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func resultOf(results []api.ToolResult, id string) *api.ToolResult {
	for i := range results {
		if results[i].ID == id {
			return &results[i]
		}
	}
	return nil
}

// attach has a part get what comes from now on. It returns the calls that the turn has waited for, and whether it goes
// on.
func (t *toolTurn) attach(part *ToolPart) (calls []*clientCall, goesOn bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, false
	}
	for _, c := range t.calls {
		t.open.remove(c.ask)
	}
	part.before = t.h.process.Passed()
	part.sent()
	t.h.bill.goOn(part.req)
	t.part = part
	close(t.attached)
	t.attached = make(chan struct{})
	return t.calls, true
}

// give gives the CLI the results of the calls that the turn has waited for. What stands beside them the model reads
// behind the last one. Calls that have come meanwhile are the client's next.
func (t *toolTurn) give(calls []*clientCall, results []api.ToolResult, beside api.Message) {
	for i, c := range calls {
		result := resultOf(results, c.ID)
		content := contentOf(result.Content)
		if i == len(calls)-1 {
			content = append(content, contentOf(beside)...)
		}
		_ = t.h.process.Answer(c.ask, c.message.Result(content, result.IsError)) // else the turn ends, and tells why
	}
	t.look()
}

// contentOf is a message's content as MCP has it: texts and images.
func contentOf(m api.Message) (content []json.RawMessage) {
	for _, block := range m.Blocks() {
		value := map[string]string{"type": "text", "text": block.Get("text").Str}
		if source := block.Get("source"); block.Get("type").Str == "image" {
			value = map[string]string{"type": "image", "data": source.Get("data").Str, "mimeType": source.Get("media_type").Str}
		}
		raw, _ := json.Marshal(value) // of strings: can't fail
		content = append(content, raw)
	}
	return content
}
