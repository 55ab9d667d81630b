package pool

import (
	"context"
	"encoding/json"
	"errors"

	"claudepool/pool/api"
	"claudepool/pool/cli"
)

// Interrupt has the turn end, which its result then tells: unlike one whose client has gone it stays in the
// conversation, as far as it went. Unlike a Handle's other methods it may be called by anybody while Run is under way.
// The error is api.ErrNoTurn where there is nothing to interrupt any more, or ctx's cause.
func (h *Handle) Interrupt(ctx context.Context) error {
	proc := h.processNow()
	if proc == nil {
		return api.ErrNoTurn
	}
	h.isStopped.Store(true) // before the result can come
	err := proc.InterruptRun(ctx)
	if err != nil {
		h.isStopped.Store(false)
	}
	return noTurn(err)
}

// Steer gives the turn another message, as cli.Process.Steer does. It may be called as Interrupt may.
func (h *Handle) Steer(uuid string, content json.RawMessage, priority string) error {
	proc := h.processNow()
	if proc == nil {
		return api.ErrNoTurn
	}
	return noTurn(proc.Steer(uuid, content, priority))
}

func noTurn(err error) error {
	if errors.Is(err, cli.ErrNoRun) || errors.Is(err, cli.ErrDied) {
		return api.ErrNoTurn
	}
	return err
}
