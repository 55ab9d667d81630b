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
// After an error the process is of no use.
func (p *Process) GoOn(ctx context.Context, session, system string) error {
	ctx, done := context.WithTimeoutCause(ctx, gateTime, errGateTime)
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.Exited():
			cancel(cli.ErrDied)
		case <-ctx.Done():
		}
	}()
	defer p.LeaveGate()
	return p.Folder.WithTranscript(session, func(t claude.Transcript) error {
		err := p.gate.Open(ctx, t, MaxParked)
		if err == nil {
			err = p.Initialize(ctx, system)
		}
		return err
	})
}

// LeaveGate gives up what a parked process waits at: one that still does is of no use then.
func (p *Process) LeaveGate() {
	_ = p.Folder.WithTranscript(p.Session, p.gate.Remove) // else it goes with the folder
}

// Discard ends a process that nobody got, and removes what it has.
func (p *Process) Discard() error {
	if p.gate != nil {
		p.LeaveGate()
		p.Kill() // nothing else reaches one that waits there, and it has nothing to write
	}
	return errors.Join(p.Stop(), p.Folder.Remove())
}
