package cli

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"claudepool/pool/claude"
)

// ErrNoRun says that there is no run that could be steered or interrupted.
var ErrNoRun = errors.New("cli: no run")

// Steer gives the run another message, the JSON of a user message's content, under a uuid that no other message has.
// While tools run the CLI passes it on at the model's next step, else when it has answered what came before; with the
// priority "now" it breaks off for it. The run ends when all its messages are answered. ErrNoRun: nothing runs.
func (p *Process) Steer(uuid string, message json.RawMessage, priority string) error {
	p.mu.Lock()
	t := p.turn
	p.mu.Unlock()
	if t == nil || !t.addMessage(uuid) {
		return ErrNoRun
	}
	return p.sendSoon(claude.SteeringMessage(uuid, message, priority))
}

// InterruptRun has the CLI end the run, which tells so in its result. ErrNoRun: nothing runs that could be interrupted.
func (p *Process) InterruptRun(ctx context.Context) error {
	p.mu.Lock()
	t := p.turn
	p.mu.Unlock()
	if t == nil || t.hasEnded() {
		return ErrNoRun
	}
	select {
	case <-t.begun: // before that the CLI ignores it
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err := p.control(ctx, claude.Interrupt{})
	return err
}

// isOursLocked reports whether a result is of one of the turn's messages, or of what it has left in the background.
func (t *turn) isOursLocked(result *claude.Line) bool {
	before := len(t.waiting)
	t.waiting = slices.DeleteFunc(t.waiting, result.Answers)
	return result.Answers(t.uuid) || len(t.waiting) < before || t.waits && len(result.MessageUUIDs) == 0
}

// addMessage has the turn last until a message of that uuid is answered, too. It reports whether the turn goes on.
func (t *turn) addMessage(uuid string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.err != nil || t.dropped {
		return false
	}
	t.waiting = append(t.waiting, uuid)
	return true
}
