package standby

import (
	"context"
	"errors"
	"time"

	"claudepool/pool/claude"
	"claudepool/pool/cli"
)

const (
	// MaxParked is the largest transcript that a parked process is given, in bytes: it reads one twice, so that with more
	// a start is as fast.
	MaxParked = 8 << 20
	// gateTime is how long a parked process may take to come to its gate and to read what comes through. With more a start
	// is as fast.
	gateTime = 5 * time.Second
)

var errGateTime = errors.New("standby: the process didn't take its transcript in time")

// GoOn has a parked process go on from its workspace's transcript of the session, and returns when it has read that.
// After an error the process has been killed, and still has to be stopped.
func (p *Process) GoOn(ctx context.Context, session, system string) error {
	ctx, done := p.atGate(ctx)
	defer done()
	err := p.Folder.WithTranscript(session, func(t claude.Transcript) error { return p.gate.Open(ctx, t, MaxParked) })
	if err == nil {
		err = p.Initialize(ctx, system)
	}
	if err = errors.Join(err, p.closeGate()); err != nil {
		p.Kill()
	}
	return err
}

// hold waits for a parked process to be at its gate, where it stays from then on.
func (p *Process) hold(ctx context.Context) error {
	ctx, done := p.atGate(ctx)
	defer done()
	return p.gate.Hold(ctx)
}

// atGate bounds what a parked process is given to do by gateTime and by its life.
func (p *Process) atGate(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, done := context.WithTimeoutCause(ctx, gateTime, errGateTime)
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.Exited():
			cancel(cli.ErrDied)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		done()
	}
}

// LeaveGate kills a parked process that isn't to go on, and leaves nothing of its gate. It still has to be stopped.
func (p *Process) LeaveGate() error {
	if p.gate == nil {
		return nil
	}
	p.Kill() // where it waits it would see neither the end of its stdin nor, the real one, a SIGTERM
	return p.closeGate()
}

// closeGate leaves nothing of the gate but who waits there.
func (p *Process) closeGate() error {
	g := p.gate
	p.gate = nil
	return p.Folder.WithTranscript(p.Session, g.Remove)
}

// Discard ends a process that nobody got, and removes what it has.
func (p *Process) Discard() error {
	return errors.Join(p.LeaveGate(), p.Stop(), p.Folder.Remove())
}
