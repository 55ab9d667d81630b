package pool

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"claudepool/pool/api"
	"claudepool/pool/claude"
)

const (
	// flushInterval and flushBurst bound how often a turn's lines are handed over: lines that come in quick succession go
	// together, at the cost of a millisecond. A turn's first lines, and a model's usual pace, never wait.
	flushInterval = time.Millisecond
	flushBurst    = 16
	// pipeRoom is how long a message may be that a CLI's empty stdin takes without its reading, in bytes: half of a pipe.
	pipeRoom = 32 << 10
	// watchInterval is how often a running turn is looked at for silence.
	watchInterval = 100 * time.Millisecond
)

// fairRate and fairBurst bound how many bytes a second a turn may hand over, so that a process that floods leaves the
// machine to others: it waits, as for a client that reads slowly. No model writes a hundredth of it. Tests have less.
var fairRate, fairBurst = rate.Limit(2 << 20), 32 << 20

// interruptGrace is how long an interrupted turn may take to end before its process is killed. Tests take their time.
var interruptGrace = time.Second

// What ends a turn before its result, beside its client.
var (
	errTurnTimeout = errors.New("pool: turn timeout")
	errSilence     = errors.New("pool: silence")
	errMemory      = errors.New("pool: out of memory")
	errQuota       = errors.New("pool: workspace full")
)

// Turn sends the request's message, calls sent, and hands over the lines that answer it, as they come and in batches, until
// the turn has ended; the last line is the CLI's result. If the process turns out to have died while idle, all of it is done
// once more with another. The error says why there is no result: an *api.Error for the client, or ctx's cause if the client
// has gone, in which case the turn was interrupted. The end of the context that emit gets says that it may not wait for the
// client any longer.
func (h *Handle) Turn(ctx context.Context, sent func(), emit func(ctx context.Context, lines [][]byte) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.pool.opts.TurnTimeout, errTurnTimeout)
	defer cancel()
	t, err := h.run(ctx, sent, emit)
	if errors.Is(err, errDied) && !h.fresh() && !t.wasStarted() {
		// It died before it took the message up, as one does that was killed while idle: nothing was run.
		if err = h.revive(ctx); err == nil {
			_, err = h.run(ctx, sent, emit)
		}
	}
	return h.explain(err)
}

// revive puts a new process in the place of the one that died.
func (h *Handle) revive(ctx context.Context) error {
	h.proc.kill() // its stdin may be closed while it lives on
	<-h.proc.exited
	ctx, cancel := context.WithTimeoutCause(ctx, h.pool.opts.SpawnTimeout, errSpawnTimeout)
	defer cancel()
	again, err := h.pool.ready(ctx, h.c, h.req)
	if err != nil {
		return err
	}
	h.proc, h.how = again.proc, again.how
	return nil
}

// run tries the turn once.
func (h *Handle) run(ctx context.Context, sent func(), emit func(context.Context, [][]byte) error) (*turn, error) {
	t := newTurn(uuid.NewString(), h.pool.opts.Broker.Scrub)
	h.failed = t // until it has gone well
	h.begin()
	h.pool.turns.begin()
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	defer context.AfterFunc(h.pool.life, func() { cut(ErrClosing) })()
	if err := h.proc.attach(t); err != nil {
		return t, err
	}
	defer h.watch(ctx, t, cut)()
	h.say(t)
	sent()
	return t, h.forward(ctx, t, emit, cut)
}

// say sends the request's message. What a pipe has room for is there at once; more takes as long as the CLI takes to read it.
func (h *Handle) say(t *turn) {
	proc, message := h.proc, claude.UserMessage(t.uuid, h.req.Turn().Content)
	send := func() {
		if err := proc.send(message); err != nil {
			t.fail(err)
		}
	}
	if len(message) <= pipeRoom {
		send()
		return
	}
	go send() // which a process that has died may outlast
}

// begin marks the conversation as one whose digest and transcript can't be relied on until the turn has gone well.
func (h *Handle) begin() {
	h.proc.turns++
	h.c.dirty = true
	h.pool.mu.Lock()
	h.c.settled = false
	h.c.user.wrote = true
	h.pool.mu.Unlock()
	signal(h.pool.changed)
}

// forward empties the turn until its end.
func (h *Handle) forward(ctx context.Context, t *turn, emit func(context.Context, [][]byte) error, cut context.CancelCauseFunc) error {
	pace := rate.NewLimiter(rate.Every(flushInterval), flushBurst)
	share := rate.NewLimiter(fairRate, fairBurst)
	for {
		select {
		case <-t.more:
		case <-ctx.Done():
			<-t.ended // the watcher sees to it
			return context.Cause(ctx)
		}
		t.gather(ctx, pace.Reserve().Delay())
		lines, last, dropped := t.pop()
		result, err := t.outcome()
		if last && err == nil && !dropped {
			h.conclude(t, result) // before the client can send the next request
		}
		if len(lines) > 0 {
			if emitErr := emit(ctx, lines); emitErr != nil {
				cut(emitErr)
			}
			t.gather(ctx, share.ReserveN(time.Now(), min(sizeOf(lines), fairBurst)).Delay())
		}
		if last {
			if dropped {
				return context.Cause(ctx) // how it ended has been told to nobody
			}
			return err
		}
	}
}

func sizeOf(lines [][]byte) (n int) {
	for _, line := range lines {
		n += len(line)
	}
	return n
}

// conclude notes what a turn with a result did to the conversation.
func (h *Handle) conclude(t *turn, result *claude.Line) {
	if result.IsError || result.Subtype != "success" {
		return
	}
	h.failed = nil
	h.c.dirty = false
	t.mu.Lock()
	if t.assistant != "" {
		h.c.goodTurn = t.assistant
	}
	t.mu.Unlock()
	h.c.seed = nil
	h.pool.mu.Lock()
	defer h.pool.mu.Unlock()
	h.c.digest = api.ExtendDigest(h.c.digest, h.req.Turn(), result.Result)
	h.c.settled = true
}

// watch ends the turn when its client goes or it was cut short, uses too much memory, or the API falls silent. It does so
// by timers, as most turns are over before one fires, and a goroutine would cost each of them a thread's wake-up. When stop
// returns, no interrupt is under way.
func (h *Handle) watch(ctx context.Context, t *turn, cut context.CancelCauseFunc) (stop func()) {
	proc, interrupted := h.proc, make(chan struct{})
	leave := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		if !t.hasEnded() { // both may be so by now, and to interrupt what is over is to wait for nothing
			proc.interrupt(t)
		}
	})
	silence := h.pool.opts.SilenceTimeout
	rest := every(watchInterval, func() {
		if proc.silentFor() >= silence && proc.awaits(t) {
			cut(errSilence)
		}
		if why := proc.doomed.Load(); why != nil {
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

// awaits reports whether a silent process's turn waits for an API that doesn't answer, or for a CLI that hasn't begun. A tool
// that runs quietly and a client that doesn't read are no silence.
func (p *process) awaits(t *turn) bool {
	if t.stalled() {
		return false
	}
	select {
	case <-t.begun:
		return p.grant.Open() > 0
	default:
		return true
	}
}

// explain turns what ended a turn into what its client gets to know.
func (h *Handle) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errDied):
		return api.BadGateway("the process of this conversation ended in the middle of the turn")
	case errors.Is(err, errTurnTimeout):
		return api.BadGateway("the turn took longer than %s", h.pool.opts.TurnTimeout)
	case errors.Is(err, errSilence):
		return api.BadGateway("no answer from the API for %s", h.pool.opts.SilenceTimeout)
	case errors.Is(err, errMemory):
		return api.BadGateway("the turn used more memory than a process may")
	case errors.Is(err, errQuota):
		return api.Invalid("the turn filled the user's workspaces beyond %d bytes or %d files", h.pool.opts.Quota.Bytes, h.pool.opts.Quota.Files)
	case errors.Is(err, ErrClosing):
		return api.Unavailable(time.Second, "the instance is shutting down")
	}
	return err
}

// Release gives the conversation to the next in line. If the turn failed, the conversation first forgets it, which
// doesn't keep the caller waiting.
func (h *Handle) Release() {
	if h.failed == nil || h.c.process == nil {
		if h.failed == nil {
			h.pool.mirror(h.c)
		}
		h.letGo()
		return
	}
	h.pool.goes(func() {
		ctx, cancel := context.WithTimeout(context.Background(), interruptGrace)
		defer cancel()
		if h.proc.doomed.Load() != nil || !h.proc.forget(ctx, h.failed) {
			h.proc.kill()
			<-h.proc.exited
		}
		h.letGo()
	})
}

// letGo leaves the conversation to the next in line, with a digest that holds.
func (h *Handle) letGo() {
	h.proc.detach()
	h.pool.mu.Lock()
	h.c.settled = true
	h.pool.mu.Unlock()
	h.pool.finish(h.c)
}

// attach makes t the process's turn.
func (p *process) attach(t *turn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		t.fail(errDied)
		return errDied
	}
	p.turn = t
	p.lastLine.Store(time.Now().UnixNano())
	return nil
}

func (p *process) detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn = nil
}

// interrupt ends the turn, by killing the process if it must. When it returns, the turn has ended and no interrupt is
// under way that would end the next one.
//
// The CLI ignores an interrupt that comes before the turn's system/init, so it is repeated then.
func (p *process) interrupt(t *turn) {
	t.drop()
	ctx, cancel := context.WithTimeout(context.Background(), interruptGrace)
	defer cancel()
	var interrupts errgroup.Group
	ask := func() error {
		_, err := p.control(ctx, claude.Interrupt{})
		return err
	}
	interrupts.Go(ask)
	select {
	case <-t.begun:
		interrupts.Go(ask)
	case <-ctx.Done():
	}
	over := make(chan error, 1)
	go func() {
		<-t.ended
		over <- interrupts.Wait()
	}()
	select {
	case err := <-over:
		if err == nil {
			return
		}
	case <-ctx.Done():
	}
	p.kill()
	<-t.ended
}

// forget makes the process's conversation what it was before the turn, and reports whether that is certain.
func (p *process) forget(ctx context.Context, t *turn) bool {
	select {
	case <-t.settled:
	case <-p.exited:
		return false
	case <-ctx.Done():
		return false
	}
	for ctx.Err() == nil {
		line, err := p.control(ctx, claude.Rewind{UserMessageUUID: t.uuid})
		if err != nil {
			return false
		}
		switch reason, rewound := claude.RewindOutcome(line); {
		case rewound, reason == "target_not_found":
			return true
		case reason != "turn_running":
			return false
		}
		sleep(ctx, 10*time.Millisecond)
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// seconds writes a duration as the cleanup line has it: with one decimal.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) }
