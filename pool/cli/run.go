package cli

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"claudepool/pool/claude"
)

const (
	// flushInterval and flushBurst bound how often a run's lines are handed over: lines that come in quick succession go
	// together, at the cost of a millisecond. A run's first lines, and a model's usual pace, never wait.
	flushInterval = time.Millisecond
	flushBurst    = 16
	// pipeRoom is how long a message may be that a CLI's empty stdin takes without its reading, in bytes: half of a pipe.
	pipeRoom = 32 << 10
	// watchInterval is how often a run is looked at for silence.
	watchInterval = 100 * time.Millisecond
)

// Outcome is how a run went.
type Outcome struct {
	Started bool           // the CLI has taken the message up
	Result  *claude.Line   // the last one; nil: there is none
	Usage   *claude.Usage  // of all results; nil: none has told it
	Answer  *claude.Answer // what was said, as far as it went; not to be read before the run's end
	Mark    string         // uuid of the last entry of the transcript that is the run's
	Calls   int64          // API calls of the run that the broker saw
}

// Good reports whether the message was answered.
func (o Outcome) Good() bool {
	return o.Result != nil && !o.Result.IsError && o.Result.Subtype == "success"
}

// Emit gets a run's lines in batches. With the last one, which may be empty, it gets the outcome, unless lines were
// kept from it. The end of its context says that it may not wait for the client any longer, unless the cause is
// context.Canceled, with which every context of a run ends; its error ends the run.
type Emit func(ctx context.Context, lines [][]byte, end *Outcome) error

// Run sends a message, the JSON of a user message's content, calls sent, and hands over the lines that answer it until
// the CLI's result, which is the last; with Settings.Background until the one after which nothing is left that was
// begun. Where there is none, the error says why: ErrDied, ErrSilence, what Abort was called with, emit's error, or
// ctx's cause. In all of these but the first the message was interrupted. A run that didn't end well stays in the
// conversation until Rewind.
func (p *Process) Run(ctx context.Context, message json.RawMessage, sent func(), emit Emit) (Outcome, error) {
	return p.RunAs(ctx, uuid.NewString(), message, sent, emit)
}

// RunAs is Run for a message of a uuid that no other message of the session has.
func (p *Process) RunAs(ctx context.Context, uuid string, message json.RawMessage, sent func(), emit Emit) (Outcome,
	error) {
	t := newTurn(uuid, p.grant.Scrub)
	t.waits = p.inForce.Background
	before := p.grant.Passed()
	defer p.grant.BeginTurn(ctx)()
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	if err := p.attach(t); err != nil {
		return Outcome{}, err
	}
	stop := p.watch(ctx, t, cut)
	p.sendMessage(t, message)
	sent()
	err := p.forward(ctx, t, emit, cut)
	stop()
	if t.isUnreported() {
		p.Recycle()
	}
	outcome, _ := t.outcome()
	outcome.Calls = p.grant.Passed() - before
	if err == nil && outcome.Good() {
		p.detach()
	}
	return outcome, err
}

// attach makes t the process's turn.
func (p *Process) attach(t *turn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		t.fail(ErrDied)
		return ErrDied
	}
	p.turn = t
	p.noteActivity()
	return nil
}

func (p *Process) detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn = nil
}

// sendMessage sends a message. What a pipe has room for is there at once; more takes as long as the CLI takes to read
// it.
func (p *Process) sendMessage(t *turn, message json.RawMessage) {
	line := claude.UserMessage(t.uuid, message)
	send := func() {
		if err := p.send(line); err != nil {
			t.fail(err)
		}
	}
	if len(line) <= pipeRoom {
		send()
		return
	}
	go send() // which a process that has died may outlast
}

// forward empties the turn until its end.
func (p *Process) forward(ctx context.Context, t *turn, emit Emit, cut context.CancelCauseFunc) error {
	pace := rate.NewLimiter(rate.Every(flushInterval), flushBurst)
	share := rate.NewLimiter(rate.Limit(p.limits.Rate), p.limits.Burst)
	for {
		select {
		case <-t.more:
		case <-ctx.Done():
			<-t.ended // the watcher sees to it
			return context.Cause(ctx)
		}
		t.gather(ctx, delay(pace, 1))
		lines, last, dropped := t.pop()
		end, err := t.end(last && !dropped)
		if len(lines) > 0 || end != nil {
			if emitErr := emit(ctx, lines, end); emitErr != nil {
				cut(emitErr)
			}
			t.gather(ctx, delay(share, min(sizeOf(lines), p.limits.Burst)))
		}
		if last {
			if dropped {
				return context.Cause(ctx) // how it ended has been told to nobody
			}
			return err
		}
	}
}

// delay takes n of what a limiter has and tells how long to wait for it. Mostly there is enough, which costs no
// allocation.
func delay(l *rate.Limiter, n int) time.Duration {
	now := time.Now()
	if l.AllowN(now, n) {
		return 0
	}
	return l.ReserveN(now, n).DelayFrom(now)
}

func sizeOf(lines [][]byte) (n int) {
	for _, line := range lines {
		n += len(line)
	}
	return n
}

// watch ends the turn when ctx does, and ctx when the process was aborted or the API falls silent. It does so by
// timers, as most turns are over before one fires, and a goroutine would cost each of them a thread's wake-up. When
// stop returns, no interrupt is under way.
func (p *Process) watch(ctx context.Context, t *turn, cut context.CancelCauseFunc) (stop func()) {
	interrupted := make(chan struct{})
	leave := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		if !t.hasEnded() { // both may be so by now, and to interrupt what is over is to wait for nothing
			p.interrupt(t)
		}
	})
	began := time.Now()
	before, _ := p.awaited()
	rest := every(watchInterval, func() {
		waited, _ := p.awaited()
		if time.Since(began)-min(waited-before, mostWaits*p.limits.Approval) >= p.limits.Turn {
			cut(ErrTooLong)
		}
		if p.silentFor() >= p.limits.Silence && p.isWaiting(t) {
			cut(ErrSilence)
		}
		if why := p.aborted.Load(); why != nil {
			cut(*why)
		}
	})
	return func() {
		rest()
		if !leave() {
			<-interrupted
		}
	}
}

// every calls f again and again, with d between, until stop is called. The last call may outlast that.
func every(d time.Duration, f func()) (stop func()) {
	var mu sync.Mutex
	var timer *time.Timer
	stopped := false
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(d, func() {
		f()
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			timer.Reset(d)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// isWaiting reports whether a silent process's turn waits for an API that doesn't answer, or for a CLI that hasn't
// begun. A tool that runs quietly, a host that hasn't answered and a client that doesn't read are no silence.
func (p *Process) isWaiting(t *turn) bool {
	if _, now := p.awaited(); now || t.stalled() {
		return false
	}
	select {
	case <-t.begun:
		return p.Calls() > 0 && !p.grant.AwaitsUnstreamed()
	default:
		return true
	}
}

// FirstToken is when the first token of the process's run came, zero if none has yet.
func (p *Process) FirstToken() time.Time {
	p.mu.Lock()
	t := p.turn
	p.mu.Unlock()
	if t == nil {
		return time.Time{}
	}
	return t.firstToken()
}

// Stalled reports whether the process waits for its run's lines to be taken.
func (p *Process) Stalled() bool {
	p.mu.Lock()
	t := p.turn
	p.mu.Unlock()
	return t != nil && t.stalled()
}
