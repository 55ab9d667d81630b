package cli

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"claudepool/pool/claude"
)

// interrupt ends the turn, by killing the process if it must. When it returns, the turn has ended and no interrupt is
// under way that would end the next one.
//
// The CLI ignores an interrupt that comes before the turn's system/init, so it is repeated then.
func (p *Process) interrupt(t *turn) {
	t.drop()
	if now, _ := t.hasTasks(); now { // which an interrupt leaves running
		p.kill()
		<-t.ended
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.limits.InterruptGrace)
	defer cancel()
	var interrupts errgroup.Group
	ask := func() error {
		_, err := p.control(ctx, claude.Interrupt{})
		return err
	}
	interrupts.Go(ask)
	select {
	case <-t.begun:
		interrupts.Go(ask)
	case <-ctx.Done():
	}
	over := make(chan error, 1)
	go func() {
		<-t.ended
		over <- interrupts.Wait()
	}()
	select {
	case err := <-over:
		if err == nil {
			return
		}
	case <-ctx.Done():
	}
	p.kill()
	<-t.ended
}

// Rewind makes the conversation what it was before the last run, if that didn't end well, and reports whether that is
// certain, and that nothing the run has begun goes on. It takes at most Limits.InterruptGrace.
func (p *Process) Rewind(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, p.limits.InterruptGrace)
	defer cancel()
	p.mu.Lock()
	t := p.turn
	p.mu.Unlock()
	if t == nil {
		return true
	}
	defer p.detach()
	return p.aborted.Load() == nil && p.rewind(ctx, t)
}

// WarmUp runs a message whose answer nobody reads, and forgets it.
func (p *Process) WarmUp(ctx context.Context, message json.RawMessage) error {
	_, err := p.runUnread(ctx, func(uuid string) []byte { return claude.UserMessage(uuid, message) })
	return err
}

// StartOver has the CLI begin another session, whose id it returns. With the one before it drops what it had made of
// the system prompt for the model it had then. The command that did this is forgotten, but for what the CLI puts before
// it: see claude.Transcript.Leftover.
func (p *Process) StartOver(ctx context.Context) (session string, err error) {
	outcome, err := p.runUnread(ctx, claude.Clear)
	if err != nil {
		return "", err
	}
	if session = claude.SessionOf(outcome.Result); session == "" {
		return "", errors.New("cli: another session has no id")
	}
	return session, nil
}

// runUnread runs a line of which a message's uuid is made, and forgets it.
func (p *Process) runUnread(ctx context.Context, line func(uuid string) []byte) (Outcome, error) {
	t := newTurn(uuid.NewString(), p.grant.Scrub)
	t.drop()
	if err := p.attach(t); err != nil {
		return Outcome{}, err
	}
	defer p.detach()
	if err := p.send(line(t.uuid)); err != nil {
		return Outcome{}, err
	}
	select {
	case <-t.ended:
	case <-ctx.Done():
		return Outcome{}, context.Cause(ctx)
	}
	outcome, err := t.outcome()
	if err == nil && (!outcome.Good() || !p.rewind(ctx, t)) {
		err = errors.New("cli: what nobody reads failed, or isn't forgotten")
	}
	return outcome, err
}

// Forget makes the conversation forget a message of the user's and what follows it, and reports whether it did.
func (p *Process) Forget(ctx context.Context, message string) bool {
	for ctx.Err() == nil {
		line, err := p.control(ctx, claude.Rewind{UserMessageUUID: message})
		if err != nil {
			return false
		}
		switch reason, rewound := claude.RewindOutcome(line); {
		case rewound, reason == "target_not_found":
			return true
		case reason != "turn_running":
			return false
		}
		pause(ctx, 10*time.Millisecond)
	}
	return false
}

// AskAside warms the process up by a question beside the conversation: less than a run does, but the process can be
// given a system prompt afterwards.
func (p *Process) AskAside(ctx context.Context, question string) error {
	_, err := p.control(ctx, claude.SideQuestion{Question: question})
	return err
}

// rewind waits until the CLI has put the turn away, and has it forget the turn.
func (p *Process) rewind(ctx context.Context, t *turn) bool {
	select {
	case <-t.completed:
	case <-p.exited:
		return false
	case <-ctx.Done():
		return false
	}
	if _, ever := t.hasTasks(); ever || t.isLasting() {
		return false // there may be more to undo
	}
	return p.Forget(ctx, t.uuid)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
