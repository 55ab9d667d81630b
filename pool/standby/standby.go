// Package standby keeps CLI processes ready for users who have yet to come. Each is started without a user, warmed
// up by turns that it forgets again in another session, frozen while it waits, claimed at most once, and replaced. How
// many are kept follows how many were claimed at once lately, as far as there is room.
//
// For all others a Keeper keeps parked processes: they have done all of their start but for reading a transcript, and
// wait for one, which may be that of a conversation that begins.
//
// It knows no users and no conversations, and what decides about room and memory is passed in: see Options.
package standby

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/workspace"
)

var (
	// ErrNone says that no process is ready that could be claimed.
	ErrNone = errors.New("standby: none is ready")

	errStartTimeout = errors.New("standby: the process was not ready in time")
)

// Options are a Keeper's settings. The functions are called without a lock held, and may be called concurrently.
type Options struct {
	Logger  *slog.Logger
	Starter Starter
	CLI     claude.Options // what processes are usually started with, but for the session's id
	Parked  bool           // processes are parked: for Unpark, else for Claim

	Min          int           // how many are kept ready at least; 0 is none, whatever comes
	StartTimeout time.Duration // from a process's start until it is ready
	FreezeAfter  time.Duration // ready for so long, a process is stopped until it is claimed
	// Quiet is how long no turn has to have begun before a process is started: what a CLI does before it asks the
	// API is over by then, and whoever talks fast has been answered. 0 is not to wait.
	Quiet time.Duration

	Room        func() int  // how many processes there may be beside those of users
	MemoryShort func() bool // the machine has little memory left: none is kept
	Changed     func()      // called when Stats has changed, except by Claim
	// OnClaim is called with each process that was taken for a user and isn't bound yet. Nil is not at all.
	OnClaim func(*cli.Process)
}

// Starter starts processes that belong to nobody. Its methods may be called concurrently.
type Starter interface {
	// Queue waits behind the processes that users need now and that aren't started yet. Its error is ctx's cause.
	Queue(ctx context.Context) error
	// NewFolder makes a workspace for a process.
	NewFolder() (*workspace.Folder, error)
	// Start starts a process in it. It returns before that is ready.
	Start(ctx context.Context, in *workspace.Folder, opts claude.Options) (*cli.Process, error)
}

// Process is a process that was started in advance, with what it was started with.
type Process struct {
	*cli.Process
	Session string            // the id of its session, once it is ready
	Folder  *workspace.Folder // its workspace

	// A CLI takes a system prompt before its first turn only. A blank process was therefore warmed up by a side
	// question, which is no turn but doesn't warm as much.
	kind        kind
	gate        *claude.Gate // of a parked process
	readySince  time.Time
	freezeTried bool // freezing it was tried; guarded by Keeper.mu
}

// Serve makes the process, which has run nothing yet, one of a session of another id. The error says that its model
// won't find all files that it is told of; it can be used all the same.
func (p *Process) Serve(session string) error {
	inner := claude.InnerID{ID: p.Session, Session: session}
	p.SetInnerID(inner)
	return p.Folder.SetInnerID(inner)
}

// Stats is what a Keeper has.
type Stats struct {
	Ready  int   // processes that can be claimed
	Misses int64 // calls of Claim or Unpark that returned ErrNone, since the Keeper's start
}

// Keeper keeps processes ready. Its methods may be called concurrently.
type Keeper struct {
	opts  Options
	turns *traffic
	wake  chan struct{} // buffered by one: there may be something to do

	life   context.Context // ends when nothing is to be started any more
	cancel context.CancelFunc
	work   sync.WaitGroup // the Keeper's goroutines

	mu      sync.Mutex // guards everything below; nothing is started, stopped or awaited while it is held
	ready   []*Process // oldest first
	pending int        // those that are being started, claimed or ended
	demand  demand
	misses  int64
	stopped bool       // none is to be kept any more
	empty   *sync.Cond // signalled when pending has changed
}

// New returns a Keeper that has begun to keep processes ready. Its owner has to call Close.
func New(opts Options) *Keeper {
	if opts.OnClaim == nil {
		opts.OnClaim = func(*cli.Process) {}
	}
	k := &Keeper{opts: opts, turns: newTraffic(opts.Quiet), wake: make(chan struct{}, 1),
		demand: demand{pace: warmPace, usual: kind{cli: opts.CLI}}}
	if opts.Parked {
		k.demand.pace = parkedPace
	}
	k.life, k.cancel = context.WithCancel(context.Background())
	k.empty = sync.NewCond(&k.mu)
	k.work.Go(k.run)
	return k
}

// Claim hands out a process: awake, bound to the credential, and given the system prompt unless that is empty. From
// then on the process and its workspace are the caller's, to stop and to remove. The error is ErrNone, ctx's cause,
// or what binding or initializing failed with; then nothing is left of the process that was tried. One that has
// died, has left its gate, or has an API call under way, is passed over.
func (k *Keeper) Claim(ctx context.Context, credential broker.Credential, system string) (*Process, error) {
	wanted := kind{cli: k.opts.CLI, blank: system != ""}
	k.prefer(wanted)
	return k.claim(ctx, wanted, false, credential, system)
}

// Wish is what a conversation wants of a parked process.
type Wish struct {
	CLI claude.Options // what it is to have been started with, but for its session
	New bool           // the conversation has no past: its model can be changed later
	Git bool           // its files are a git repository, which the process is to have known from its start
}

func (w Wish) kind() kind { return kind{cli: w.CLI, git: w.Git} }

// Unpark hands out a parked process that fits the wish: awake, bound to the credential, and held at its gate, where it
// needs GoOn. Its workspace's files may be replaced before. In all else it is as Claim. What is kept doesn't follow the
// wish before Prefer.
func (k *Keeper) Unpark(ctx context.Context, credential broker.Credential, w Wish) (*Process, error) {
	return k.claim(ctx, w.kind(), w.New, credential, "")
}

// Prefer says that who wished for such a process is one whose wishes are followed.
func (k *Keeper) Prefer(w Wish) {
	k.prefer(w.kind())
	signal(k.wake)
}

// claim takes a process and hands it over, and another one where that one has died or has an API call under way.
func (k *Keeper) claim(ctx context.Context, wanted kind, isNew bool, credential broker.Credential, system string) (
	*Process, error) {
	k.arrive() // soon a turn begins, and no replacement is to be started in its way
	defer signal(k.wake)
	for {
		p := k.take(wanted, isNew)
		if p == nil {
			return nil, ErrNone
		}
		err := k.handOver(ctx, p, credential, system)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, broker.ErrBusy) && !errors.Is(err, cli.ErrDied) && !errors.Is(err, claude.ErrGate) {
			return nil, err
		}
	}
}

// TurnBegins says that a turn of a user begins: what is being started in advance keeps out of its way. It waits for
// nobody.
func (k *Keeper) TurnBegins() { k.turns.begin() }

// Stats returns what there is now.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Stats{Ready: len(k.ready), Misses: k.misses}
}

// Count is how many processes there are, with those that are being started, claimed or ended.
func (k *Keeper) Count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.ready) + k.pending
}

// Stop has no more processes kept: those that are ready end, and those being started when they are. It doesn't wait
// for it.
func (k *Keeper) Stop() {
	k.mu.Lock()
	k.stopped = true
	k.mu.Unlock()
	signal(k.wake)
}

// Wait returns when, after Stop, there is no process any more, or ctx is done.
func (k *Keeper) Wait(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.empty.Broadcast()
	})()
	k.mu.Lock()
	defer k.mu.Unlock()
	for ctx.Err() == nil && len(k.ready)+k.pending > 0 {
		k.empty.Wait()
	}
}

// Close ends every process that wasn't claimed, also those being started, and returns when nothing of them is left.
// It may be called more than once.
func (k *Keeper) Close() {
	k.Stop()
	k.cancel()
	k.Wait(context.Background())
	k.work.Wait()
}

// arrive counts a conversation that wants a process.
func (k *Keeper) arrive() {
	k.turns.begin()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.demand.arrive(time.Now())
}

// prefer notes what one wanted.
func (k *Keeper) prefer(wanted kind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.demand.prefer(wanted)
}

// take takes the youngest process of the kind, as what ran last answers soonest, else one of another kind that fits. It
// returns nil if there is none, which is a miss.
func (k *Keeper) take(wanted kind, isNew bool) *Process {
	k.mu.Lock()
	defer k.mu.Unlock()
	best := -1
	for i, p := range slices.Backward(k.ready) {
		if !p.kind.fits(wanted, isNew) || !p.Alive() {
			continue
		}
		if best < 0 || k.ready[best].kind != wanted && p.kind == wanted {
			best = i
		}
	}
	if best < 0 {
		k.misses++
		return nil
	}
	p := k.ready[best]
	k.ready = slices.Delete(k.ready, best, best+1)
	k.pending++
	return p
}

// handOver makes a process that was taken its user's. If that fails, nothing is left of it.
func (k *Keeper) handOver(ctx context.Context, p *Process, credential broker.Credential, system string) error {
	p.Thaw()
	k.opts.OnClaim(p.Process)
	err := p.Bind(credential)
	if err == nil && system != "" {
		err = p.Initialize(ctx, system)
	}
	if err == nil && p.gate != nil {
		err = p.hold(ctx)
	}
	if err != nil {
		k.discard(p)
		return err
	}
	k.finish(nil)
	return nil
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
