package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/broker"
)

// How a request found its process.
const (
	ProcessStandby = "standby" // started in advance, now the user's
	ProcessReused  = "reused"  // the conversation's own
	ProcessResumed = "resumed" // started for this request, with a transcript to go on from
	ProcessCold    = "cold"    // started for this request
)

// Handle is a conversation held for one turn, with a process that is fitted to the request. Its methods are for one
// goroutine.
type Handle struct {
	pool   *Pool
	c      *conversation
	proc   *process
	req    *api.Request
	how    string
	failed *turn // the turn that went wrong, if it did

	queued, ready time.Duration
}

// PID is the process id of the CLI.
func (h *Handle) PID() int { return h.proc.child.PID() }

// Process tells how the process was found: ProcessStandby, ProcessReused, ProcessResumed or ProcessCold.
func (h *Handle) Process() string { return h.how }

// fresh reports whether the process was started for this request. One that was there before may have been about to die.
func (h *Handle) fresh() bool { return h.how == ProcessCold || h.how == ProcessResumed }

// Waited tells how long the request waited for its conversation, and then for its process.
func (h *Handle) Waited() (queued, ready time.Duration) { return h.queued, h.ready }

// Acquire waits in line for the conversation a request is meant for and makes a process ready for it. The error is an
// *api.Error where the client is to know it, the Ownership's, ErrDraining, ctx's cause, or internal; in all cases
// nothing of the turn was run. A Handle has to be released.
func (p *Pool) Acquire(ctx context.Context, req *api.Request, outage bool) (*Handle, error) {
	if err := p.allowed(req); err != nil {
		return nil, err
	}
	came := time.Now()
	u, err := p.enter(ctx, req, outage)
	if err != nil {
		return nil, err
	}
	if err := p.full(u); err != nil {
		p.leave(u)
		return nil, err
	}
	for {
		c := p.pick(u, req)
		if err := p.hold(ctx, c); err != nil {
			p.leave(u)
			return nil, err
		}
		if !p.fits(c, req) {
			p.yield(c)
			continue
		}
		turn := time.Now()
		h, err := p.readyUnlessGone(ctx, c, req)
		if err != nil {
			return nil, err
		}
		if err := p.owner.Admit(ctx, u.id, outage); err != nil { // the lease may have ended while the request waited
			p.finish(c)
			return nil, err
		}
		h.queued, h.ready = turn.Sub(came), time.Since(turn)
		return h, nil
	}
}

// readyUnlessGone makes the process ready. That goes on when the caller gives up meanwhile, so that the client's next
// try finds it.
func (p *Pool) readyUnlessGone(ctx context.Context, c *conversation, req *api.Request) (*Handle, error) {
	if c.process != nil && c.process.fits(c.settings.with(req)) { // as usually: there is nothing to wait for
		work, cancel := context.WithTimeoutCause(ctx, p.opts.SpawnTimeout, errSpawnTimeout) // it may have died since
		defer cancel()
		h, err := p.ready(work, c, req)
		if err != nil {
			p.finish(c)
		}
		return h, err
	}
	type outcome struct {
		h   *Handle
		err error
	}
	done := make(chan outcome)
	p.goes(func() {
		work, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), p.opts.SpawnTimeout, errSpawnTimeout)
		defer cancel()
		h, err := p.ready(work, c, req)
		select {
		case done <- outcome{h, err}:
		case <-ctx.Done():
			p.finish(c)
		}
	})
	select {
	case o := <-done:
		if o.err != nil {
			p.finish(c)
		}
		return o.h, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

var errSpawnTimeout = errors.New("pool: the process was not ready in time")

// ready gives the held conversation a process with the settings the request wants.
func (p *Pool) ready(ctx context.Context, c *conversation, req *api.Request) (*Handle, error) {
	if c.settings.permission == "" {
		c.settings.permission = p.opts.PermissionMode
	}
	before := c.settings
	c.settings = before.with(req)
	h := &Handle{pool: p, c: c, req: req, how: ProcessReused}
	if proc := c.process; proc != nil && (!proc.alive() || proc.spent() || proc.inForce.needsRestart(c.settings)) {
		p.retire(c)
	}
	if c.process == nil {
		how, err := p.spawn(ctx, c, req)
		if err != nil {
			c.settings = before
			return nil, err
		}
		h.how = how
	}
	h.proc = c.process
	h.proc.thaw()
	p.mu.Lock()
	h.proc.rested = false
	p.mu.Unlock()
	err := h.proc.fit(ctx, c.settings, p.opts.Broker.Scrub)
	if err == nil {
		return h, nil
	}
	c.settings = before
	var refused *api.Error
	if !errors.As(err, &refused) {
		p.retire(c) // whatever state it is in now, nobody asked for it
	}
	if errors.Is(err, errDied) && !h.fresh() {
		return p.ready(ctx, c, req)
	}
	return nil, err
}

// spawn gets a process for the held conversation, making room for it first: a standby if one fits, else a new one.
func (p *Pool) spawn(ctx context.Context, c *conversation, req *api.Request) (how string, err error) {
	if err := p.reserve(c); err != nil {
		return "", err
	}
	how = ProcessStandby
	proc, err := p.claim(ctx, c, credentialOf(req))
	if proc == nil && err == nil {
		how = ProcessCold
		proc, err = p.startProcess(ctx, c, credentialOf(req))
	}
	if err != nil {
		p.unreserve(c)
		return "", fmt.Errorf("pool: spawn: %w", err)
	}
	if proc.resumed {
		how = ProcessResumed
	}
	p.mu.Lock()
	c.process = proc
	p.mu.Unlock()
	signal(p.changed)
	p.opts.Logger.Info("process started", "user", api.ShortUser(c.user.id), "pid", proc.child.PID(),
		"process", how, "seconds", time.Since(proc.started).Seconds())
	p.goes(func() { p.bury(c, proc) })
	return how, nil
}

func credentialOf(req *api.Request) broker.Credential {
	if req.OAuth != nil {
		return broker.Credential{OAuthToken: req.OAuth.AccessToken}
	}
	return broker.Credential{APIKey: req.APIKey}
}

// bury waits for the end of a process and clears it away if it ended while nobody used it.
func (p *Pool) bury(c *conversation, proc *process) {
	<-proc.exited
	p.mu.Lock()
	if c.process != proc || c.held {
		p.mu.Unlock()
		return // whoever holds the conversation sees to it
	}
	c.held = true
	p.mu.Unlock()
	p.retire(c)
	p.opts.Logger.Warn("idle process ended by itself", "user", api.ShortUser(c.user.id), "pid", proc.child.PID(), "exit", proc.child.Exit())
	p.yield(c)
	p.settleUser(c.user.id)
}

// finish gives the conversation's slot back and lets the request leave.
func (p *Pool) finish(c *conversation) {
	if proc := c.process; proc != nil && !proc.alive() {
		p.retire(c)
	}
	p.mu.Lock()
	c.lastUsed = time.Now()
	if c.process == nil && c.dir == nil && !c.mirror.fetch && len(c.waiters) == 0 {
		c.user.loseLocked(c) // it has never begun, and its history may be large
	}
	p.mu.Unlock()
	p.yield(c)
	p.leave(c.user)
}
