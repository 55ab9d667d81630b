package standby

import (
	"context"
	"errors"

	"claudepool/pool/claude"
	"claudepool/pool/cli"
)

// latestShare and latestParked are the weights of the latest arrival in the shares of kinds. Parked processes are few,
// as they are made anew in a second, and follow what was asked for last.
const latestShare, latestParked = 0.25, 0.5

// MaxParked is the largest transcript that a parked process is given, in bytes: it reads one twice, so that with more a
// start is as fast.
const MaxParked = 8 << 20

// GoOn has a parked process go on from its workspace's transcript of the session, and returns when it has read that.
// After an error the process is of no use.
func (p *Process) GoOn(ctx context.Context, session, system string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.Exited():
			cancel(cli.ErrDied)
		case <-ctx.Done():
		}
	}()
	return p.Folder.WithTranscript(session, func(t claude.Transcript) error {
		err := p.gate.Open(ctx, t, MaxParked)
		if err == nil {
			err = p.Initialize(ctx, system)
		}
		return errors.Join(err, p.gate.Remove(t))
	})
}

// Discard ends a process that nobody got, and removes what it has.
func (p *Process) Discard() error {
	p.LeaveGate()
	return errors.Join(p.Stop(), p.Folder.Remove())
}

// LeaveGate gives up what a parked process waits at: it is of no use then.
func (p *Process) LeaveGate() {
	if p.gate != nil {
		_ = p.gate.Close() // of what is only looked at: it can't fail
	}
}
