package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"claudepool/infra/telemetry"
	"claudepool/pool/api"
	"claudepool/pool/cli"
)

// How a request found its process.
const (
	ProcessStandby = "standby" // started in advance, now the user's
	ProcessReused  = "reused"  // the conversation's own
	ProcessResumed = "resumed" // started for this request, with a transcript to go on from
	ProcessCold    = "cold"    // started for this request
)

// Acquire waits in line for the conversation a request is meant for and makes a process ready for it. The error is an
// *api.Error where the client is to know it, the Ownership's, ErrDraining, ctx's cause, or internal; in all cases
// nothing of the turn was run. A Handle has to be released.
func (p *Pool) Acquire(ctx context.Context, req *api.Request, outage bool) (*Handle, error) {
	if err := p.Allowed(req); err != nil {
		return nil, err
	}
	came := time.Now()
	u, err := p.enter(ctx, req, outage)
	if err != nil {
		return nil, err
	}
	if spent := p.budgets.check(ctx, u.id, req.ServiceKey); spent != nil {
		u.leave()
		return nil, spent
	}
	trial, err := u.admit(ctx, req)
	if err != nil {
		u.leave()
		return nil, err
	}
	h, err := u.acquire(ctx, req, came)
	if err == nil {
		if err = p.owner.Admit(ctx, u.id, outage); err == nil { // the lease may have ended while the request waited
			h.trial, h.outage = trial, outage
			return h, nil
		}
		h.leave()
	}
	trial.end()
	return nil, err
}

// acquire waits for the conversation and its process. On an error the request has left.
func (u *user) acquire(ctx context.Context, req *api.Request, came time.Time) (*Handle, error) {
	s, err := u.holdFor(ctx, req)
	if err != nil {
		u.leave()
		return nil, err
	}
	turn := time.Now()
	h, err := s.readyUnlessGone(ctx, req)
	if err != nil {
		return nil, err
	}
	h.came, h.queued, h.prepared = came, turn.Sub(came), time.Since(turn)
	return h, nil
}

// holdFor takes the slot of the conversation that the request is meant for.
func (u *user) holdFor(ctx context.Context, req *api.Request) (*slot, error) {
	if err := u.full(); err != nil {
		return nil, err
	}
	for {
		u.attempts.await(ctx, req)
		s, err := u.pick(req).hold(ctx)
		switch {
		case err != nil:
			return nil, err
		case u.isRefused(): // as a turn that went before has shown
			s.drop()
			s.finish()
			return nil, errRefused
		case s.fits(req):
			return s, nil
		}
		s.yield()
	}
}

// leave gives a conversation back and lets its request leave. Nobody needs to have got a Handle.
func (s *slot) leave() {
	s.bill.close()
	s.bill = nil
	u := s.user
	if u.isRefused() {
		s.drop()
	}
	s.finish()
	u.leave()
}

// readyUnlessGone makes the process ready. That goes on when the caller gives up meanwhile, so that the client's next
// try finds it. On an error the slot is given back and the request has left.
func (s *slot) readyUnlessGone(ctx context.Context, req *api.Request) (*Handle, error) {
	if s.isReady(req) {
		return s.readyHandle(ctx, req)
	}
	type outcome struct {
		h   *Handle
		err error
	}
	done := make(chan outcome)
	s.pool.work.Go(func() {
		h, err := s.readyHandle(context.WithoutCancel(ctx), req)
		select {
		case done <- outcome{h, err}:
		case <-ctx.Done():
			if err == nil {
				h.leave()
			}
		}
	})
	select {
	case o := <-done:
		return o.h, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// modelRetry is when it makes sense to ask for a model again that the API could not be asked about.
const modelRetry = 5 * time.Second

var errSpawnTimeout = errors.New("pool: the process was not ready in time")

// isReady reports whether the conversation's process is as the request wants it, as usual: there is nothing to wait
// for.
func (s *slot) isReady(req *api.Request) bool {
	return s.process != nil && s.process.Satisfies(with(s.settings, req))
}

// readyHandle makes the process ready. On an error the slot is given back and the request has left.
func (s *slot) readyHandle(ctx context.Context, req *api.Request) (*Handle, error) {
	s.bill = s.user.newBill(req)
	how, err := s.ready(ctx, req)
	if err != nil {
		s.leave()
		return nil, err
	}
	h := &Handle{slot: s, req: req, how: how, pid: s.process.PID()}
	h.reading, h.known = s.reading(req)
	return h, nil
}

// ready gives the conversation a process with the settings the request wants, in the time there is and as long as the
// user is held, and tells how it was found.
func (s *slot) ready(ctx context.Context, req *api.Request) (how string, err error) {
	if s.isReady(req) {
		s.settings, s.origin = with(s.settings, req), api.ContextKept
		s.charge()
		s.host(req)
		s.process.Thaw()
		return ProcessReused, nil
	}
	held := s.pool.owner.Held(s.user.id)
	if held.Err() != nil {
		return "", context.Cause(held)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.pool.opts.SpawnTimeout, errSpawnTimeout)
	defer cancel()
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	defer context.AfterFunc(held, func() { cut(context.Cause(held)) })()
	return s.makeReady(ctx, req)
}

func (s *slot) makeReady(ctx context.Context, req *api.Request) (how string, err error) {
	if err := s.learn(ctx); err != nil {
		return "", err
	}
	if s.settings.Permission == "" {
		s.settings.Permission = s.pool.opts.PermissionMode
	}
	before := s.settings
	s.settings = with(before, req)
	if s.process == nil { // one that is only to answer has no questions
		s.settings.Interactive = req.Interactive
	}
	how, s.origin = ProcessReused, api.ContextKept
	if s.process != nil && s.process.NeedsRestart(s.settings) {
		if err := s.end(); err != nil {
			return "", err
		}
	}
	if s.process == nil {
		if how, err = s.spawn(ctx, req); err != nil {
			s.settings = before
			return "", err
		}
	}
	s.charge()
	s.host(req)
	s.process.Thaw()
	ctx, span := telemetry.Span(ctx, "fit")
	err = s.process.Fit(ctx, s.settings)
	telemetry.End(span, err)
	if err == nil {
		return how, nil
	}
	s.settings = before
	var refusal *cli.Refusal
	if errors.As(err, &refusal) {
		if s.user.standing.refused.Load() { // the CLI has the API look at a model, and so at the credential
			return "", errRefused
		}
		if spent, _ := s.bill.refused(); spent != nil {
			return "", spent
		}
		if refusal.Passes {
			return "", api.Overloaded(modelRetry, "%s", refusal)
		}
		return "", api.Invalid("%s", refusal)
	}
	if endErr := s.end(); endErr != nil { // whatever state it is in now, nobody asked for it
		return "", errors.Join(err, endErr)
	}
	if errors.Is(err, cli.ErrDied) && (how == ProcessReused || how == ProcessStandby) {
		return s.makeReady(ctx, req)
	}
	return "", err
}

// spawn gets a process for the conversation, making room for it first, and tells how.
func (s *slot) spawn(ctx context.Context, req *api.Request) (how string, err error) {
	p := s.pool
	if s.dir == nil && p.diskFull.Load() {
		return "", api.Overloaded(p.tuning.quotaInterval, "this instance's disk is full")
	}
	if err := s.reserve(); err != nil {
		return "", err
	}
	for s.dir == nil && s.user.atConversationLimit() && p.evict(s.user.takeLongestUnused()) {
	}
	began := time.Now()
	proc, how, err := s.obtain(ctx, req)
	if err != nil {
		if !s.stuck {
			s.user.unreserve()
		}
		return "", fmt.Errorf("pool: spawn: %w", err)
	}
	s.install(proc)
	p.opts.Logger.Info("process started", "user", api.ShortUser(s.user.id), "pid", proc.PID(),
		"process", how, "seconds", time.Since(began).Seconds())
	return how, nil
}

// reserve takes room for one more process of the slot's user. Where there is none, the process that has been idle for
// longest gives way: the user's own if the user has too many, else an unproven user's, else anybody's.
func (s *slot) reserve() error {
	p := s.pool
	for {
		victim, ofUser, ok := s.user.tryReserve()
		switch {
		case ok:
			return nil
		case victim != nil:
			p.evictions.room.Add(1)
			victim.endIdle()
		case ofUser:
			p.toolWaits.undoLongestOf(s.user.id) // so that there is room when the client asks again
			return api.RateLimited(time.Second, "%d conversations of this user are in use", p.opts.MaxProcessesPerUser)
		default:
			p.toolWaits.undoLongest()
			p.opts.Logger.Warn("no room for another process", "user", api.ShortUser(s.user.id)) // an alert counts these lines
			return api.Overloaded(time.Second, "no room for another process")
		}
	}
}
