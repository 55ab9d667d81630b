package pool

import (
	"context"
	"errors"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"claudepool/pool/broker"
)

func init() { quotaInterval, interruptGrace = time.Hour, 5*time.Second }

// SetIntervals changes how long a stream stays silent, and how long a request waits before its stream is opened. No
// server may be running then.
func SetIntervals(ping, grace time.Duration) (pingBefore, graceBefore time.Duration) {
	pingBefore, graceBefore = pingInterval, queueGrace
	pingInterval, queueGrace = ping, grace
	return pingBefore, graceBefore
}

// CleanUp has the reaper do what it would do at the time.
func (p *Pool) CleanUp(at time.Time) { p.cleanUp(at) }

// Stalled is the number of turns whose process waits for a client to read.
func (p *Pool) Stalled() int {
	stalled := 0
	_, procs := p.running()
	for _, proc := range procs {
		proc.mu.Lock()
		t := proc.turn
		proc.mu.Unlock()
		if t != nil && t.stalled() {
			stalled++
		}
	}
	return stalled
}

// Blanks is the number of standbys that can be given a system prompt.
func (p *Pool) Blanks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.blanksLocked()
}

// StandbyPIDs are the process ids of the standbys, the one that the next user gets first.
func (p *Pool) StandbyPIDs() (pids []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.standbys {
		pids = append(pids, s.proc.child.PID())
	}
	return pids
}

// AgeStandbys makes all standbys older.
func (p *Pool) AgeStandbys(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.standbys {
		s.since = s.since.Add(-by)
	}
	signal(p.tend)
}

// Adoption is a standby that has been taken for a user and isn't bound yet.
type Adoption struct{ s *standby }

// OnAdopt has f called with each Adoption until restore is called. No pool may be running then.
func OnAdopt(f func(Adoption)) (restore func()) {
	before := adopting
	adopting = func(s *standby) { f(Adoption{s}) }
	return func() { adopting = before }
}

// PID is the standby's process id.
func (a Adoption) PID() int { return a.s.proc.child.PID() }

// Kill kills the standby and returns when its end has been seen.
func (a Adoption) Kill() {
	a.s.proc.kill()
	<-a.s.proc.exited
}

// Bind makes the standby somebody's.
func (a Adoption) Bind(c broker.Credential) error { return a.s.proc.grant.Bind(c) }

// Stop stops the standby. What is asked of it from now on stays unanswered.
func (a Adoption) Stop() { _ = a.s.proc.child.Signal(syscall.SIGSTOP) }

// Secret is what the standby knows itself by at the broker.
func (a Adoption) Secret() string { return a.s.proc.grant.Secret() }

// Open is the number of the standby's calls under way.
func (a Adoption) Open() int { return a.s.proc.grant.Open() }

// Conversations is the number of conversations that are known.
func (p *Pool) Conversations() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, u := range p.users {
		n += len(u.conversations)
	}
	return n
}

// Doom has all processes' turns end, also those that have just ended.
func (p *Pool) Doom() {
	_, procs := p.running()
	for _, proc := range procs {
		proc.doom(errors.New("doomed"))
	}
}

// WatchAfter has every process's turn watched once more when it has ended and its context too, and reports whether that
// interrupts anything.
func (p *Pool) WatchAfter() (interrupted bool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	held, procs := p.running()
	for i, proc := range procs {
		t := newTurn("over", p.opts.Broker.Scrub)
		t.fail(errDied)
		(&Handle{pool: p, c: held[i], proc: proc}).watch(ctx, t, func(error) {})()
		t.mu.Lock()
		interrupted = interrupted || t.dropped
		t.mu.Unlock()
	}
	return interrupted
}

// CheckSpace measures the workspaces now.
func (p *Pool) CheckSpace() { p.checkSpace() }

// CheckMemory looks at the memory of all processes now, as if they might have limit bytes each.
func (p *Pool) CheckMemory(limit int64) { p.checkMemory(limit) }

// NewTraffic returns one in which no turn has begun.
func NewTraffic() *traffic { return newTraffic() }

// Begin, Wait and GiveWay are begin, wait and giveWay.
func (t *traffic) Begin() { t.begin() }

func (t *traffic) Wait(ctx context.Context, most time.Duration) time.Duration {
	return t.wait(ctx, most)
}

func (t *traffic) GiveWay(ctx context.Context, most time.Duration, send func(syscall.Signal) error) {
	t.giveWay(ctx, most, send)
}

// SetFairRate changes how many bytes a second a turn may hand over, after the first ones, until restore is called. No pool
// may be running then.
func SetFairRate(bytes float64, burst int) (restore func()) {
	was, wasBurst := fairRate, fairBurst
	fairRate, fairBurst = rate.Limit(bytes), burst
	return func() { fairRate, fairBurst = was, wasBurst }
}

// SetCalm changes how long no turn has to have begun before a standby is made, until restore is called. No pool may be
// running then.
func SetCalm(d time.Duration) (restore func()) {
	before := calm
	calm = d
	return func() { calm = before }
}
