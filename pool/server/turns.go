package server

import (
	"bytes"
	"context"
	"slices"

	"github.com/google/uuid"

	"claudepool/pool/api"
	"claudepool/pool/channel"
)

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
	t.turn, t.steered = turn, 0
	return nil
}

func (t *talk) endTurn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel(nil)
	t.turn, t.cancel, t.names = nil, nil, nil
}

// giveUp has a turn that is being made ready not begin.
func (t *talk) giveUp(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveUpLocked(why)
}

func (t *talk) giveUpLocked(why error) {
	if t.turn == nil && t.cancel != nil {
		t.cancel(why)
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

// running is the turn that runs, or nil, and the uuids of the messages that wait.
func (t *talk) running() (turn Turn, waiting []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.waiting {
		waiting = append(waiting, m.UUID)
	}
	return t.turn, waiting
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
	if turn == nil || turn.Steer(name, m.Turn.Readings()[0].Message(), m.Priority) != nil {
		return false
	}
	t.log.Append(echo)
	t.deliver(m.UUID, "PROCESSING")
	return true
}

// nameLocked gives a message of the turn a name that the CLI doesn't know.
func (t *talk) nameLocked(outer string) (inner string) {
	inner = uuid.NewString()
	t.names = append(t.names, named{[]byte(outer), []byte(inner)})
	return inner
}

// outward is a line of the turn with the names that clients have given.
func (t *talk) outward(line []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.names {
		if bytes.Contains(line, n.inner) {
			line = bytes.ReplaceAll(line, n.inner, n.outer)
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
		err := t.runOne(ready, m)
		m.release()
		if err != nil {
			t.log.Append(channel.Event{Source: sourceWorker, Payload: t.failure(m, err)})
		}
		t.deliver(m.UUID, "PROCESSED")
	}
}

func (t *talk) runOne(ready context.Context, m *said) error {
	defer t.endTurn()
	s := t.channels.server
	turn, err := s.backend.Acquire(ready, t.request(m), m.outage)
	if err == nil {
		defer turn.Release()
		err = t.begin(ready, turn)
	}
	if err == nil {
		ctx := context.Background()
		err = turn.Run(ctx, func() { t.deliver(m.UUID, "PROCESSING") }, t.tell)
	}
	if err != nil {
		return s.public(context.Background(), err)
	}
	return nil
}
