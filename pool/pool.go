// Package pool keeps claude processes alive between requests: one per conversation, found again by its user, run one
// turn at a time, reaped when idle. It decides nothing about which instance a user belongs to; it asks its Ownership.
//
// A request's way is Pool.Acquire, Handle.Run, Handle.Release. Nothing is spawned, killed or awaited under the lock
// of the table of users and conversations: whoever has work to do on a conversation first takes its slot, then works
// without the lock.
package pool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"claudepool/infra/latency"
	"claudepool/pool/standby"
	"claudepool/pool/vault"
	"claudepool/pool/workspace"
)

// ErrDraining says that the pool takes no more requests. Nothing of the request was run.
var ErrDraining = errors.New("pool: draining")

// ErrClosing is the cause of a turn's end when the pool couldn't wait for it any longer.
var ErrClosing = errors.New("pool: closing")

// Ownership is what the pool needs to know of the other instances. All methods may be called concurrently.
type Ownership interface {
	// Admit returns nil if this instance may begin a turn of the user now. outage says that the front vouches for it.
	Admit(ctx context.Context, user string, outage bool) error
	// Held returns a context that ends when an admitted user turns out to be another instance's by now, with an error of
	// Admit's as its cause: what is being done for the user has to stop. It has ended for who isn't admitted any more.
	Held(user string) context.Context
	// Confirm returns nil if an admitted user surely is this instance's at this moment, and else an error.
	Confirm(ctx context.Context, user string) error
	// Release gives the user up. The pool calls it once nothing of the user runs here any more; keepHome asks that the
	// user's next claim prefers this instance, which still has the conversations' files.
	Release(ctx context.Context, user string, keepHome bool) error
	// Proven reports whether the API has accepted the credential of an admitted user, here or elsewhere, in the last days.
	// It waits for nobody.
	Proven(user string) bool
	// Prove says that the API has just accepted it. It may be said of every good answer: others are told of it once a day.
	// An error is that nobody else could be told; here the user is proven from now on.
	Prove(ctx context.Context, user string) error
}

// Pool holds the processes of one instance. Its methods may be called concurrently.
type Pool struct {
	opts      Options
	tuning    tuning
	owner     Ownership
	index     *workspace.Index
	starter   *starter
	standbys  *standby.Keeper
	parked    *standby.Keeper
	admission *admission
	budgets   budgets
	quota     *quota
	vault     *vault.Vault        // nil: conversations end with their instance
	reads     *semaphore.Weighted // transcripts that are in memory to be told or forked

	wake    chan struct{} // buffered by one: the reaper has a new nearest deadline
	changed chan struct{} // buffered by one: a snapshot would look different now

	life   context.Context // ends when turns are to be cut short
	cutAll context.CancelCauseFunc
	work   sync.WaitGroup // the pool's own goroutines

	table     *table // users and conversations
	attending attending
	toolWaits *toolWaits
	spaces    *spaces
	cleanups  cleanups
	evictions evictions
	tenants   tenants
	diskFull  atomic.Bool // the disk is short, and nothing can give way

	noMoves       atomic.Bool  // files can't be moved from workspace to workspace
	movedTooLarge atomic.Int64 // conversations that had too many files for it

	served      served
	firstTokens latency.Recent // from the requests on
}

// New returns a running pool. Its owner has to call Close.
func New(opts Options, owner Ownership) *Pool {
	if opts.MemoryShort == nil {
		opts.MemoryShort = func() bool { return false }
	}
	p := &Pool{
		opts: opts, tuning: production, owner: owner, index: workspace.NewIndex(opts.Workspaces),
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1), spaces: newSpaces(),
		attending: attending{users: make(map[string]map[*attendance]bool)},
	}
	if opts.tuning != nil {
		p.tuning = *opts.tuning
	}
	p.table = newTable(&p.opts)
	p.toolWaits = newToolWaits()
	p.table.headroom.Store(headroomOf(p))
	p.life, p.cutAll = context.WithCancelCause(context.Background())
	p.starter = newStarter(p)
	p.standbys = newStandbys(p)
	p.parked = newParked(p, p.standbys)
	p.admission = newAdmission(p)
	opts.Broker.OnAnswer(p.admission.answered)
	p.budgets = budgets{user: opts.BudgetUser, key: opts.BudgetKey, ledger: opts.Ledger, reader: opts.Usage}
	p.quota = newQuota(p)
	p.vault, p.reads = openVault(p), semaphore.NewWeighted(readsAtOnce)
	p.work.Go(p.reap)
	p.work.Go(newWatcher(p).run)
	p.work.Go(p.quota.watchUsers)
	p.work.Go(p.quota.watchDisk)
	return p
}

// Changed is signalled when a snapshot taken now may differ from the one before.
func (p *Pool) Changed() <-chan struct{} { return p.changed }

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Drain refuses new requests, gives up idle users at once, and each other user when its running turns have ended. It
// returns when the pool is empty or ctx is done; Close then ends what still runs.
func (p *Pool) Drain(ctx context.Context) {
	p.refuse()
	signal(p.changed)
	p.retire(p.table.takeIdle())
	p.waitEmpty(ctx)
}

// Close cuts running turns short with an error for their clients, ends every process, gives up every user and returns
// when nothing is left. It may be called more than once.
func (p *Pool) Close() {
	p.refuse()
	p.cutAll(ErrClosing)
	p.retire(p.table.takeIdle())
	p.standbys.Close()
	p.parked.Close()
	p.waitEmpty(context.Background())
	p.work.Wait()
}

// refuse has no request begin from now on, also none of those that wait.
func (p *Pool) refuse() {
	p.standbys.Stop()
	p.parked.Stop()
	p.table.refuse()
	p.attending.tellAll()
	p.toolWaits.close()
}

// retire ends the processes of idle conversations side by side, and gives up the users who then have none.
func (p *Pool) retire(idle []*slot) {
	for _, s := range idle {
		p.work.Go(s.endIdle)
	}
}

// waitEmpty returns when no request and no process is left, or ctx is done.
func (p *Pool) waitEmpty(ctx context.Context) {
	p.table.waitEmpty(ctx)
	p.standbys.Wait(ctx)
	p.parked.Wait(ctx)
}

// Load tells how much of the pool is taken: processes that exist or users who are about to get one, and how many
// processes could give way. It waits for nobody.
func (p *Pool) Load() (reserved, idle int) {
	return int(p.table.reserved.Load()), int(p.table.idling.Load())
}

// Full reports whether no conversation can begin here now, whatever room Load tells of: every uid has files that
// somebody uses, the disk or memory is short and nothing could give way. It waits for nobody.
func (p *Pool) Full() bool {
	if p.diskFull.Load() {
		return true
	}
	if p.standbys.Stats().Ready+p.parked.Stats().Ready > 0 {
		return false
	}
	if p.opts.Launcher.Full() && p.table.atRest.Load() == 0 {
		return true
	}
	return p.table.reserved.Load() > 0 && p.table.idling.Load() == 0 && p.opts.MemoryShort()
}

// Users returns the ids of the users this pool has been admitted to and not yet given up.
func (p *Pool) Users() []string { return p.table.owned() }

// Evict gives the user up as soon as none of its requests is left: its processes are stopped, then it is released.
// Those that come while another's turn goes on are served as ever, as turns can be long; those that come afterwards get
// ErrDraining, or wait for the release.
func (p *Pool) Evict(id string) {
	if u := p.table.find(id); u != nil {
		p.retire(u.takeIdle())
		p.attending.tell(id)
		p.toolWaits.undo(id, "")
		u.releaseIfUnused()
	}
}
