package pool

import (
	"cmp"
	"context"
	"errors"
	"time"

	"claudepool/infra/telemetry"
	"claudepool/pool/api"
	"claudepool/pool/cli"
)

// hold takes the conversation's slot, waiting for it in line.
func (c *conversation) hold(ctx context.Context) (*slot, error) {
	if err := c.pool.toolWaits.on(c); err != nil {
		return nil, err
	}
	s, turn, err := c.enqueue()
	switch {
	case errors.Is(err, errQueueFull):
		return nil, api.RateLimited(time.Second, "%d requests of this conversation are waiting already",
			c.pool.opts.QueueLimit)
	case s != nil || err != nil:
		return s, err
	}
	_, span := telemetry.Span(ctx, "queue")
	s, err = c.wait(ctx, turn)
	telemetry.End(span, err)
	return s, err
}

// wait waits for the slot in line.
func (c *conversation) wait(ctx context.Context, turn chan *slot) (s *slot, err error) {
	limit := c.pool.opts.QueueTimeout
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case s := <-turn:
		if s == nil {
			return nil, cmp.Or(c.pool.toolWaits.on(c), ErrDraining)
		}
		return s, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timeout.C:
		err = c.lateError(limit)
	}
	if c.leaveQueue(turn) {
		return nil, err
	}
	if s := <-turn; s != nil {
		s.yield() // it came while we were leaving
	}
	return nil, err
}

// lateError tells a request that has waited for so long what it has waited for.
func (c *conversation) lateError(limit time.Duration) error {
	if p := c.processNow(); p != nil {
		if asked := p.Pending(); len(asked) > 0 {
			return api.RateLimited(time.Second, "waited for %s: this conversation's turn waits for its client's answer to "+
				"the request %s", limit, asked[0].ID)
		}
	}
	return api.RateLimited(time.Second, "waited for %s behind this conversation's other requests", limit)
}

// finish gives the slot back after a request.
func (s *slot) finish() {
	if s.process != nil && !s.stuck && !s.process.Alive() {
		_ = s.end() // else yield sees to it
	}
	var unused cli.Idle
	if s.process != nil {
		unused = s.process.Idle()
	}
	s.used(unused)
	s.yield()
}

// yield hands the slot to the next in line. It is the caller's no more. A process that has ended, or whose user or pool
// is to have none, goes.
func (s *slot) yield() {
	p, c, proc := s.pool, s.conversation, s.process
	if s.stuck {
		p.work.Go(s.retryEnd)
		return
	}
	retire, useless := s.passOn()
	signal(p.wake)
	signal(p.changed)
	switch {
	case retire:
		p.work.Go(s.endIdle)
	case useless:
		p.work.Go(c.dropFiles)
	case proc != nil && !proc.Alive(): // awaitExit couldn't take it before
		if s := c.takeWith(proc); s != nil {
			p.work.Go(s.endIdle)
		}
	}
}

// install gives the conversation its process, for which room was reserved.
func (s *slot) install(proc *cli.Process) {
	s.setProcess(proc)
	signal(s.pool.changed)
	signal(s.pool.wake) // there is less room now
	s.pool.work.Go(func() { s.conversation.awaitExit(proc) })
}

// processEnded says that nothing of the conversation's process is left.
func (s *slot) processEnded() {
	s.unsetProcess()
	signal(s.pool.changed)
}
