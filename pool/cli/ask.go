package cli

import (
	"encoding/json"
	"errors"
	"time"

	"claudepool/pool/claude"
)

const (
	// answerTime is how long a CLI may take to read what it has asked for, or what belongs to its run.
	answerTime = time.Minute
	// mostWaits is for how many of the longest waits for an answer a run's time stands still.
	mostWaits = 12
)

// ErrNotAsked is the error of an answer to what the CLI doesn't wait for: it hasn't asked, somebody has answered, or
// it has given up.
var ErrNotAsked = errors.New("cli: not asked")

// What models read where nobody answers.
const (
	noHost   = "This needs approval, and there is nobody in this conversation who could give it."
	noAnswer = "Nobody has answered in time, so this was not allowed."
	unknown  = "not supported by this host"
)

// Ask is something that a CLI asks of its host, and waits for.
type Ask struct {
	ID      string    // of the control request
	Subtype string    // can_use_tool, hook_callback, mcp_message, elicitation, …
	Line    []byte    // the control request as the CLI wrote it, but for its session's id
	At      time.Time // when it came
}

// Taking is what becomes of an Ask.
type Taking int

// The process refuses what isn't taken. What is taken is the host's to answer; the client of a run sees what is shown,
// and its withdrawal, among the run's lines.
const (
	Refuse Taking = iota
	Take
	Show
)

// Host answers what a CLI asks. Its methods are called by whoever reads the CLI's output, and must not wait.
type Host interface {
	Asked(Ask) Taking
	// Withdrawn says that the CLI doesn't wait any longer for what was taken, or that its time is over.
	Withdrawn(id string)
}

// SetHost says who answers what the CLI asks from now on; nil is nobody. It doesn't change who answers what was asked
// before.
func (p *Process) SetHost(h Host) {
	p.asks.mu.Lock()
	defer p.asks.mu.Unlock()
	p.asks.host = h
}

// Pending are the asks that wait for an answer, oldest first.
func (p *Process) Pending() []Ask {
	p.asks.mu.Lock()
	defer p.asks.mu.Unlock()
	all := make([]Ask, len(p.asks.pending))
	for i, a := range p.asks.pending {
		all[i] = a.Ask
	}
	return all
}

// PendingAsk is the ask of that id, if it waits for an answer.
func (p *Process) PendingAsk(id string) (Ask, bool) {
	for _, a := range p.Pending() {
		if a.ID == id {
			return a, true
		}
	}
	return Ask{}, false
}

// Answer gives the CLI what it has asked for, a JSON object. Each ask is answered once, and then it is ErrNotAsked to
// answer otherwise; the same answer again is good, as whoever gave it may not have heard that it was taken. It waits
// for a CLI that doesn't read.
func (p *Process) Answer(id string, answer json.RawMessage) error {
	_, err := p.reply(id, claude.AnswerControl(id, answer))
	return err
}

// AnswerFor is Answer by somebody else than the host, who is told that nothing is waited for any longer.
func (p *Process) AnswerFor(id string, answer json.RawMessage) error {
	taken, err := p.reply(id, claude.AnswerControl(id, answer))
	if taken != nil {
		taken.host.Withdrawn(id)
	}
	return err
}

// AnswerError tells the CLI that it doesn't get what it has asked for, and why.
func (p *Process) AnswerError(id, why string) error {
	_, err := p.reply(id, claude.RefuseControl(id, why))
	return err
}

// DeclineAll says no to all that waits for the host's answer, as nobody is there who could give it. It doesn't wait.
func (p *Process) DeclineAll(of Host) {
	for _, a := range p.Pending() {
		if declined := p.asks.removeOf(a.ID, of); declined != nil {
			p.decline(declined, noHost)
		}
	}
}

// decline says no to an ask that was taken out, and tells the client that has seen it.
func (p *Process) decline(a *pendingAsk, why string) {
	p.noteActivity()
	p.answerNow(refusal(a.Ask, why))
	if a.shown {
		raw := claude.CancelControl(a.ID)
		go p.show(claude.Line{Raw: raw}, (*turn).addShown) // which waits for the client to read
	}
}

func (p *Process) reply(id string, line []byte) (taken *pendingAsk, err error) {
	taken, isRepeated := p.asks.answer(id, line)
	switch {
	case isRepeated:
		return nil, nil
	case taken == nil:
		return nil, ErrNotAsked
	}
	p.noteActivity()
	return taken, p.sendSoon(line)
}

// sendSoon sends a line to a CLI that has time to read. One that doesn't is killed.
func (p *Process) sendSoon(line []byte) error {
	sent := make(chan error, 1)
	go func() { sent <- p.send(line) }()
	timeout := time.NewTimer(answerTime)
	defer timeout.Stop()
	select {
	case err := <-sent:
		return err
	case <-timeout.C:
		p.kill()
		return ErrDied
	case <-p.exited:
		return ErrDied
	}
}

// asked passes a control request of the CLI's on to its host, or refuses it. It reports whether the client is to see
// it.
func (p *Process) asked(line claude.Line) (shown bool) {
	a := Ask{ID: line.RequestID, Subtype: line.Asks, Line: line.Raw, At: time.Now()}
	host := p.asks.add(a, func() { p.expire(a) })
	if host == nil {
		p.answerNow(refusal(a, noHost))
		return false
	}
	switch host.Asked(a) {
	case Refuse:
		if p.asks.remove(a.ID) != nil {
			p.answerNow(refusal(a, noHost))
		}
	case Show:
		return p.asks.show(a.ID)
	case Take:
	}
	return false
}

// refusal is the line that says no to what was asked. The CLI takes an error for a failure of its own, so the model
// is told.
func refusal(a Ask, why string) []byte {
	if a.Subtype == "can_use_tool" {
		return claude.AnswerControl(a.ID, claude.Denial(why))
	}
	return claude.RefuseControl(a.ID, unknown)
}

// expire refuses what nobody has answered in time.
func (p *Process) expire(a Ask) {
	expired := p.asks.remove(a.ID)
	if expired == nil {
		return
	}
	expired.host.Withdrawn(a.ID)
	p.decline(expired, noAnswer)
}

// withdrawn says that the CLI has given up what it has asked. It reports whether the client has seen that.
func (p *Process) withdrawn(id string) (shown bool) {
	a := p.asks.remove(id)
	if a == nil {
		return false
	}
	a.host.Withdrawn(id)
	return a.shown
}

// dropAsks forgets what a CLI has asked that has ended.
func (p *Process) dropAsks() {
	for _, a := range p.Pending() {
		p.withdrawn(a.ID)
	}
}

// answerNow answers without waiting for stdin, as stdout isn't read meanwhile. A CLI that asks on and on and doesn't
// read is killed.
func (p *Process) answerNow(line []byte) {
	if p.refusing.Add(int64(len(line))) > refusalBytes {
		p.kill()
		return
	}
	go func() {
		_ = p.send(line)
		p.refusing.Add(-int64(len(line)))
	}()
}

// awaited is how long the process has waited for answers in all, and whether it does.
func (p *Process) awaited() (all time.Duration, now bool) {
	p.asks.mu.Lock()
	defer p.asks.mu.Unlock()
	if len(p.asks.pending) == 0 {
		return p.asks.waited, false
	}
	return p.asks.waited + time.Since(p.asks.since), true
}
