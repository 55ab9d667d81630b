package pool

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
)

// What ends a turn before its result, beside its client.
var (
	errMemory = errors.New("pool: out of memory")
	errQuota  = errors.New("pool: workspace full")
	errMoved  = errors.New("pool: the user is another instance's")
)

// Handle is a conversation held for one turn, with a process that is fitted to the request. Its methods are for one
// goroutine, but for those that say otherwise.
//
// What it has is the turn's. What its slot has lasts from turn to turn and is for whoever holds that; of what the
// slot's conversation has, the holder may read what it has set itself, and all else goes through methods that take the
// table's lock.
type Handle struct {
	*slot
	req       *api.Request
	how       string
	pid       int
	failed    bool // the turn has begun and hasn't gone well
	trial     *trial
	outage    bool                   // as Admit was told
	reading   api.Reading            // what is asked
	known     bool                   // what the request says was said before was said in this conversation
	attempt   *attempt               // nil until the turn has begun
	spent     *api.Error             // what ended the turn: a budget
	client    atomic.Pointer[client] // who is asked in it; nil: nobody
	isStopped atomic.Bool            // somebody has interrupted it who wants it kept
	tools     *toolTurn              // whose client runs tools; nil: it has none

	came             time.Time
	spoke            atomic.Int64  // nanoseconds from when it came until the first token; 0: none has come
	queued, prepared time.Duration // waited for the conversation, and then for its process
	outcome          cli.Outcome   // of the turn, as far as it has gone
}

// Receipt tells which process has the turn, how long the request waited for it, and after Run how the turn has gone.
func (h *Handle) Receipt() api.Receipt {
	r := api.Receipt{Process: h.how, PID: h.pid, Queue: milliseconds(h.queued), Ready: milliseconds(h.prepared),
		Context: h.origin, APICalls: h.outcome.Calls}
	if u := h.outcome.Usage; u != nil {
		r.Usage = &api.Usage{InputTokens: u.InputTokens, OutputTokens: u.OutputTokens, CacheReadTokens: u.CacheReadTokens,
			CacheCreationTokens: u.CacheCreationTokens}
		r.CostUSD = u.CostUSD
	}
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Run sends the request's message, calls sent, and hands over the lines that answer it, as they come and in batches,
// until the turn has ended; the last line is a result of the CLI's. If the process turns out to have died before it
// took the message up, all of it is done once more with another. The error says why there is no result: an *api.Error
// for the client, or ctx's cause if the client has gone, in which case the turn was interrupted. The end of the context
// that emit gets, with another cause than context.Canceled, says that it may not wait for the client any longer.
func (h *Handle) Run(ctx context.Context, sent func(), emit func(ctx context.Context, lines [][]byte) error) error {
	p := h.pool
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	defer context.AfterFunc(p.life, func() { cut(ErrClosing) })()
	defer context.AfterFunc(p.owner.Held(h.user.id), func() { cut(errMoved) })()
	defer func() { p.served.count(h.how) }() // another process may take the first one's place

	outcome, err := h.run(ctx, sent, emit)
	if errors.Is(err, cli.ErrDied) && !outcome.Started { // as one does that was killed while idle: nothing was run
		if err = h.revive(ctx); err == nil {
			_, err = h.run(ctx, sent, emit)
		}
	}
	if err == nil && h.spent != nil {
		return h.spent
	}
	return h.explain(err)
}

// isSpent reports whether a turn was ended by a budget after it had got somewhere. Then it is kept as far as it went:
// the CLI goes on from there.
func (h *Handle) isSpent(end *cli.Outcome) (isKept bool) {
	if end.Result == nil || !end.Result.IsError {
		return false
	}
	h.spent, isKept = h.bill.refused()
	return h.spent != nil && isKept
}

// revive puts a new process in the place of the one that died. The lease may end meanwhile, as no turn has begun.
func (h *Handle) revive(ctx context.Context) error {
	h.process.Kill()       // its stdin may be closed while it lives on
	h.req.MessageUUID = "" // which may stand in the transcript by now, and a CLI drops what it has had
	held := h.pool.owner.Held(h.user.id)
	how, err := h.ready(ctx, h.req)
	switch h.how = how; {
	case err != nil && held.Err() != nil:
		return errMoved
	case err != nil:
		return err
	}
	h.pid = h.process.PID()
	if h.pool.owner.Admit(ctx, h.user.id, h.outage) != nil && ctx.Err() == nil {
		return errMoved // the stream may have begun: whether it is so or can't be told makes no difference to the client
	}
	return context.Cause(ctx)
}

// run tries the turn once. From here on the transcript can't be relied on until it has gone well.
func (h *Handle) run(ctx context.Context, sent func(),
	emit func(context.Context, [][]byte) error) (cli.Outcome, error) {
	h.failed, h.dirty = true, true
	h.trustDigests(false)
	h.bill.begin()
	h.pool.spaces.mark(h.user)
	if h.attempt == nil {
		h.attempt = h.user.attempts.begin(h.req)
	}
	defer context.AfterFunc(ctx, h.giveUp)()
	signal(h.pool.changed)
	h.pool.standbys.TurnBegins()
	h.pool.parked.TurnBegins()
	note := func(ctx context.Context, lines [][]byte, end *cli.Outcome) error {
		h.noteFirstToken()
		switch { // before the client can send the next request
		case end == nil:
		case end.Good(), h.isSpent(end), h.isStopped.Load() && end.Result != nil:
			h.conclude(end)
		default:
			h.giveUp()
		}
		if len(lines) == 0 {
			return nil
		}
		return emit(ctx, lines)
	}
	defer h.listen()()
	outcome, err := h.process.RunAs(ctx, cmp.Or(h.req.MessageUUID, uuid.NewString()), h.reading.Message(), sent, note)
	h.outcome = outcome
	if h.failed {
		h.giveUp()
	}
	return outcome, err
}

// noteFirstToken counts how long the turn took to its first token, once that has come.
func (h *Handle) noteFirstToken() {
	if h.spoke.Load() > 0 {
		return
	}
	if at := h.process.FirstToken(); !at.IsZero() {
		h.spoke.Store(int64(at.Sub(h.came)))
		h.pool.firstTokens.Observe(h.FirstToken(), at)
	}
}

// FirstToken is how long the turn took to its first token from when its request had come; 0: there is none yet.
func (h *Handle) FirstToken() time.Duration { return time.Duration(h.spoke.Load()) }

// IsError reports whether the turn's result says that it has failed.
func (h *Handle) IsError() bool { return h.outcome.Result != nil && h.outcome.Result.IsError }

// giveUp says that the turn counts for nothing: its conversation can be found again by those who go on without it. They
// wait in line until it has been forgotten. It may be called more than once, also when the turn is over.
func (h *Handle) giveUp() {
	h.trustDigests(true)
	h.attempt.tell()
}

// conclude notes what a turn that went well did to the conversation.
func (h *Handle) conclude(end *cli.Outcome) {
	h.failed, h.dirty, h.fresh, h.seed = false, false, false, api.Reading{}
	if !h.user.isUnproven() { // a good end alone is no proof: some commands the CLI answers without the API
		h.answered = true
		h.user.prove()
		h.fulfil()
	}
	h.goodTurn = end.Mark
	digests := h.digests
	if h.known {
		digests = digests.Complete(h.reading.History)
	}
	reply := api.Reply{All: end.Answer.All(), Message: end.Answer.Message(), Block: end.Answer.Block(),
		Deltas: end.Answer.Deltas(), Result: end.Answer.Results(), Shown: end.Answer.Shown()}
	h.setDigests(digests.Extend(h.reading.Asked, reply))
	h.attempt.tell()
}

// explain turns what ended a turn into what its client gets to know.
func (h *Handle) explain(err error) error {
	opts := h.pool.opts
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cli.ErrDied):
		return api.BadGateway("the process of this conversation ended in the middle of the turn")
	case errors.Is(err, cli.ErrTooLong):
		return api.BadGateway("the turn took longer than %s", opts.TurnTimeout)
	case errors.Is(err, cli.ErrSilence):
		return api.BadGateway("no answer from the API for %s", opts.SilenceTimeout)
	case errors.Is(err, errMemory):
		return api.BadGateway("the turn used more memory than a process may")
	case errors.Is(err, errQuota):
		return api.Invalid("the turn filled the user's workspaces beyond %d bytes or %d files, or %d levels of folders",
			opts.Quota.Bytes, opts.Quota.Files, confine.MaxDepth)
	case errors.Is(err, errMoved):
		return api.Unavailable(time.Second, "this user is served by another instance by now, try again")
	case errors.Is(err, ErrClosing):
		return api.Unavailable(time.Second, "the instance is shutting down")
	}
	return err
}

// Release gives the conversation to the next in line. If the turn failed, the conversation first forgets it, which
// doesn't keep the caller waiting.
func (h *Handle) Release() {
	h.trial.end()
	switch {
	case h.user.isRefused():
		h.pool.work.Go(h.dropRefused)
	case !h.failed:
		h.save()
		h.leave()
	case h.process == nil:
		h.leave()
	default:
		h.pool.work.Go(func() {
			if !h.process.Rewind(context.Background()) {
				h.process.Quit()
			}
			h.leave()
		})
	}
}
