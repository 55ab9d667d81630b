package server

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"claudepool/pool/api"
	"claudepool/pool/channel"
)

var errBroken = api.BadGateway("the turn broke off in its middle")

// next is the message whose turn is next, which is ready to be given up from here on. Without one, the channel is at
// rest.
func (t *talk) next() (m *said, ready context.Context) {
	t.mu.Lock()
	if len(t.waiting) > 0 {
		defer t.mu.Unlock()
		m = t.waiting[0]
		t.waiting = slices.Delete(t.waiting, 0, 1)
		ready, t.cancel = context.WithCancelCause(context.Background()) // the turn is nobody's; the Backend bounds it
		return m, ready
	}
	t.busy = false
	rest := t.whenRest
	t.whenRest = nil
	t.mu.Unlock()
	for _, f := range rest {
		f()
	}
	return nil, nil
}

// begin says that the turn that was made ready begins, unless it has been given up meanwhile.
func (t *talk) begin(ready context.Context, turn Turn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := context.Cause(ready); err != nil {
		return err
	}
	t.turn, t.steered, t.isStopped = turn, 0, false
	return nil
}

// endTurn ends the turn, and returns its messages.
func (t *talk) endTurn() []named {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel(nil)
	names := t.names
	t.turn, t.cancel, t.names = nil, nil, nil
	return names
}

// giveUp has a turn that is being made ready not begin, and returns the one that runs, if one does, and the uuids of
// the messages that wait.
func (t *talk) giveUp(why error) (turn Turn, waiting []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveUpLocked(why)
	waiting = []string{}
	for _, m := range t.waiting {
		waiting = append(waiting, m.UUID)
	}
	return t.turn, waiting
}

func (t *talk) giveUpLocked(why error) {
	if t.turn == nil && t.cancel != nil {
		t.cancel(why)
	}
}

// stop interrupts a turn, or has it be as soon as its message is sent.
func (t *talk) stop(ctx context.Context, turn Turn) error {
	err := turn.Interrupt(ctx)
	if errors.Is(err, api.ErrNoTurn) && t.noteStop(turn) {
		err = turn.Interrupt(ctx) // it may have been sent meanwhile
	}
	if errors.Is(err, api.ErrNoTurn) {
		return nil
	}
	return err
}

// noteStop reports whether the turn hasn't ended.
func (t *talk) noteStop(turn Turn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.isStopped = t.isStopped || t.turn == turn
	return t.turn == turn
}

// sent says that the turn's message is sent, from where on it can be interrupted.
func (t *talk) sent(ready context.Context, turn Turn, m *said) {
	t.hadTurn.Store(true)
	t.deliver(m.UUID, "PROCESSING")
	t.mu.Lock()
	isStopped := t.isStopped
	t.mu.Unlock()
	if isStopped {
		go func() { _ = turn.Interrupt(ready) }() // which waits for the turn, or its end
	}
}

// die has nothing more begin: the conversation is deleted. The Backend waits for the turn that runs.
func (t *talk) die() {
	t.mu.Lock()
	t.isDead = true
	waiting := t.waiting
	t.waiting = nil
	t.giveUpLocked(errDeleted)
	t.mu.Unlock()
	t.log.End()
	for _, m := range waiting {
		m.release()
	}
}

// running is the turn that runs, or nil.
func (t *talk) running() Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.turn
}

// steerable is the turn that runs if it can be given another message now, with a name for that.
func (t *talk) steerable(message string) (turn Turn, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turn == nil || t.isDead || len(t.waiting) > 0 || t.steered == mostSteered {
		return nil, ""
	}
	t.steered++
	return t.turn, t.nameLocked(message)
}

// steer gives a message to the turn that runs, unless none does.
func (t *talk) steer(m *said, echo channel.Event) bool {
	turn, name := t.steerable(m.UUID)
	if turn == nil {
		return false
	}
	if turn.Steer(name, m.Turn.Readings()[0].Message(), m.Priority) != nil {
		t.unname(name)
		return false
	}
	t.log.Append(echo)
	t.deliver(m.UUID, "PROCESSING")
	return true
}

// nameLocked gives a message of the turn a name that the CLI doesn't know.
func (t *talk) nameLocked(outer string) (inner string) {
	inner = uuid.NewString()
	t.names = append(t.names, named{outer: []byte(outer), inner: []byte(inner)})
	return inner
}

// unname says that a message isn't the turn's.
func (t *talk) unname(inner string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names = slices.DeleteFunc(t.names, func(n named) bool { return string(n.inner) == inner })
}

// outward is a line of the turn with the names that clients have given. A result answers those that it names.
func (t *talk) outward(line []byte, isResult bool) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, n := range t.names {
		if bytes.Contains(line, n.inner) {
			line = bytes.ReplaceAll(line, n.inner, n.outer)
			t.names[i].isAnswered = n.isAnswered || isResult
		}
	}
	return line
}

// request is what a message asks of the Backend.
func (t *talk) request(m *said) *api.Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	req := m.Turn
	req.ServiceKey, req.MessageUUID, req.Host = m.service, t.nameLocked(m.UUID), &t.asks
	req.Interactive = t.channels.server.backend.Approves()
	req.PermissionMode = t.wishes.permission
	if t.wishes.model != nil {
		req.Model = *t.wishes.model
	}
	if init := t.wishes.initialize; init != nil {
		req.Client, req.System = init, init.System
	}
	return req
}

// run runs the turns that wait, one after the other, until there is none.
func (t *talk) run() {
	for m, ready := t.next(); m != nil; m, ready = t.next() {
		messages, err := t.runOne(ready, m)
		m.release()
		unanswered := []string{}
		for _, n := range messages {
			if !n.isAnswered {
				unanswered = append(unanswered, string(n.outer))
			}
		}
		if err != nil {
			t.log.Append(channel.Event{Source: sourceWorker, Payload: t.failure(unanswered, err)})
		}
		for _, n := range messages {
			t.deliver(string(n.outer), "PROCESSED")
		}
	}
}

// runOne runs a message's turn, and returns all messages that it got.
func (t *talk) runOne(ready context.Context, m *said) (messages []named, err error) {
	defer func() { messages = t.endTurn() }()
	s := t.channels.server
	turn, err := s.backend.Acquire(ready, t.request(m), m.outage)
	if err == nil {
		defer turn.Release()
		err = t.begin(ready, turn)
	}
	isSent := false
	if err == nil {
		err = turn.Run(context.Background(), func() {
			isSent = true
			t.sent(ready, turn, m)
		}, t.tell)
	}
	if err == nil {
		return nil, nil
	}
	shown := s.public(context.Background(), err)
	if isSent && !errors.As(err, new(*api.Error)) {
		shown = errBroken
	}
	return nil, shown
}
