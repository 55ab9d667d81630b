package cli

import (
	"context"
	"time"

	"claudepool/pool/confine"
)

// gateInterval is how often it is looked whether a CLI has come to its gate.
const gateInterval = 20 * time.Millisecond

// AwaitGate waits until a process that was started with a gate waits there.
func (p *Process) AwaitGate(ctx context.Context) error {
	opening := confine.NewOpening(p.PID())
	for {
		if waits, err := opening.Waits(); waits || err != nil {
			return err
		}
		select {
		case <-time.After(gateInterval):
		case <-p.exited:
			return ErrDied
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
