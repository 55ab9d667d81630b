// Package pool keeps claude processes alive between requests: one per conversation, found again by its user, run one
// turn at a time, reaped when idle. It decides nothing about which instance a user belongs to; it asks its Ownership.
//
// A request's way is Pool.Acquire → Handle.Run → Handle.Release. Nothing is spawned, killed or awaited under the pool's
// lock: whoever has work to do on a conversation first takes its slot, then works without the lock. The lock is for
// pool.go, user.go, conversation.go, slot.go, capacity.go and mirror.go alone.
package pool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"claudepool/infra/archive"
	"claudepool/infra/snapshot"
	"claudepool/pool/broker"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
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

// Options are a pool's settings. All durations and numbers have to be positive, except Standby and QueueLimit, which may be 0.
type Options struct {
	Logger     *slog.Logger
	Launcher   *confine.Launcher
	Broker     *broker.Broker
	ClaudeBin  string // path of the CLI
	Workspaces string // this instance's own folder, free of symbolic links

	Standby             int // processes started in advance, at least
	MaxProcesses        int
	MaxProcessesPerUser int
	MaxConversations    int // of one user, with files
	QueueLimit          int // requests waiting for one conversation
	MaxProcessRSS       int64
	Quota               workspace.Space // of all workspaces of one user

	IdleTimeout     time.Duration
	CleanupInterval time.Duration
	FreezeAfter     time.Duration // idle for so long, a process is stopped until its next use
	WorkspaceTTL    time.Duration
	TurnTimeout     time.Duration
	QueueTimeout    time.Duration
	SilenceTimeout  time.Duration
	SpawnTimeout    time.Duration

	// PermissionMode is the highest permission mode a request may ask for, and that of requests which don't ask.
	PermissionMode string
	// Confined says that uid, file and network protections are all in force, so that requests may name programs to
	// run before their credential has been checked.
	Confined bool
	// Archive keeps conversations for the next instance; nil is none. ArchiveMaxBytes is the largest transcript it gets.
	Archive         archive.Store
	ArchiveMaxBytes int64
	// MemoryShort reports that the machine has little memory left; then there are no standbys. Nil is never.
	MemoryShort func() bool

	tuning *tuning // nil: as in production
}

// tuning is what tests have otherwise.
type tuning struct {
	quotaInterval  time.Duration // how often what users' files take is measured
	quotaSlice     time.Duration // how long each user is measured at a time
	disk           func(path string) (workspace.Disk, error)
	interruptGrace time.Duration            // how long an interrupted turn may take to end before its process is killed
	quiet          time.Duration            // see standby.Options
	onClaim        func(*cli.Process)       // see standby.Options
	stop           func(*cli.Process) error // ends a user's process
	stuckPause     time.Duration            // until it is tried again to end a process that could not be ended
	horde          int                      // sessions; see hordeSessions
}

var production = tuning{quotaInterval: 5 * time.Second, quotaSlice: 20 * time.Millisecond, interruptGrace: time.Second,
	quiet: 200 * time.Millisecond, disk: workspace.DiskOf, stop: (*cli.Process).Stop, stuckPause: time.Minute,
	horde: hordeSessions}

// fairRate is how many bytes a second a turn may hand over after its first fairBurst ones. No model writes a hundredth of it.
const fairRate, fairBurst = 2 << 20, 32 << 20

// Pool holds the processes of one instance. Its methods may be called concurrently.
type Pool struct {
	opts      Options
	tuning    tuning
	owner     Ownership
	index     *workspace.Index
	starter   *starter
	standbys  *standby.Keeper
	admission *admission
	quota     *quota
	vault     *vault.Vault // nil: conversations end with their instance

	wake    chan struct{} // buffered by one: the reaper has a new nearest deadline
	changed chan struct{} // buffered by one: a snapshot would look different now

	life   context.Context // ends when turns are to be cut short
	cutAll context.CancelCauseFunc
	work   sync.WaitGroup // the pool's own goroutines

	reserved, idling atomic.Int64 // what Load tells; changed under mu
	diskFull         atomic.Bool  // the disk is short, and nothing can give way
	atRest           atomic.Int64 // conversations with files that nobody uses; changed under mu

	mu        sync.Mutex // guards everything below, and what users and conversations say it guards
	users     map[string]*user
	toMeasure map[*user]bool         // who is to be measured
	space     workspace.Space        // what users' files took when they were measured last
	slots     int                    // users' processes that exist or are being started or stopped
	newcomers int                    // users with requests and no process
	queued    int                    // requests that wait for a conversation
	running   map[*conversation]bool // those that have a process
	idle      line                   // those of them that nobody holds
	dormant   line                   // those without a process that nobody holds
	draining  bool
	empty     *sync.Cond // signalled when a request has left or a process is gone
	cleanup   cleanupStats
	froze     time.Time // when conversations' processes were frozen last
}

// New returns a running pool. Its owner has to call Close.
func New(opts Options, owner Ownership) *Pool {
	if opts.MemoryShort == nil {
		opts.MemoryShort = func() bool { return false }
	}
	p := &Pool{
		opts: opts, tuning: production, owner: owner, index: workspace.NewIndex(opts.Workspaces),
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		users: make(map[string]*user), toMeasure: make(map[*user]bool), running: make(map[*conversation]bool),
	}
	if opts.tuning != nil {
		p.tuning = *opts.tuning
	}
	p.empty = sync.NewCond(&p.mu)
	p.life, p.cutAll = context.WithCancelCause(context.Background())
	p.starter = newStarter(opts, p.limits())
	p.standbys = newStandbys(p)
	p.admission = newAdmission(p)
	opts.Broker.OnAnswer(p.admission.answered)
	p.quota = newQuota(p)
	p.vault = openVault(p)
	p.work.Go(p.reap)
	p.work.Go(p.watchUsage)
	p.work.Go(p.quota.watchUsers)
	p.work.Go(p.quota.watchDisk)
	return p
}

func (p *Pool) limits() cli.Limits {
	return cli.Limits{Silence: p.opts.SilenceTimeout, InterruptGrace: p.tuning.interruptGrace,
		Rate: fairRate, Burst: fairBurst}
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
	p.retire(p.takeAllIdle())
	p.waitEmpty(ctx)
}

// Close cuts running turns short with an error for their clients, ends every process, gives up every user and returns
// when nothing is left. It may be called more than once.
func (p *Pool) Close() {
	p.refuse()
	p.cutAll(ErrClosing)
	p.retire(p.takeAllIdle())
	p.standbys.Close()
	p.waitEmpty(context.Background())
	p.work.Wait()
}

// refuse has no request begin from now on, also none of those that wait.
func (p *Pool) refuse() {
	p.standbys.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
	for _, u := range p.users {
		for _, c := range u.conversations {
			c.dismissLocked()
		}
	}
}

// waitEmpty returns when no request and no process is left, or ctx is done.
func (p *Pool) waitEmpty(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.empty.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	for ctx.Err() == nil && !p.isEmptyLocked() {
		p.empty.Wait()
	}
	p.mu.Unlock()
	p.standbys.Wait(ctx)
}

func (p *Pool) isEmptyLocked() bool {
	if p.slots > 0 {
		return false
	}
	for _, u := range p.users {
		if u.requests > 0 || u.releasing != nil || u.owned {
			return false
		}
	}
	return true
}

// Load tells how much of the pool is taken: processes that exist or users who are about to get one, and how many
// processes could give way. It waits for nobody.
func (p *Pool) Load() (reserved, idle int) {
	return int(p.reserved.Load()), int(p.idling.Load())
}

// Full reports whether no conversation can begin here now, whatever room Load tells of: every uid has files that somebody
// uses, the disk or memory is short and nothing could give way. It waits for nobody.
func (p *Pool) Full() bool {
	if p.diskFull.Load() {
		return true
	}
	if p.standbys.Stats().Ready > 0 {
		return false
	}
	if p.opts.Launcher.Full() && p.atRest.Load() == 0 {
		return true
	}
	return p.reserved.Load() > 0 && p.idling.Load() == 0 && p.opts.MemoryShort()
}

// Users returns the ids of the users this pool has been admitted to and not yet given up.
func (p *Pool) Users() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for id, u := range p.users {
		if u.owned {
			ids = append(ids, id)
		}
	}
	return ids
}

// Evict gives the user up as soon as none of its requests is left: its processes are stopped, then it is released. Those
// that come while another's turn goes on are served as ever, as turns can be long; those that come afterwards get
// ErrDraining, or wait for the release.
func (p *Pool) Evict(id string) {
	p.mu.Lock()
	u := p.users[id]
	p.mu.Unlock()
	if u != nil {
		p.retire(u.takeIdle())
		u.releaseIfUnused()
	}
}

// tell tells what only the lock guards.
func (p *Pool) tell(s *snapshot.Instance) {
	p.mu.Lock()
	cleanup := p.cleanup
	s.Draining, s.Queued = p.draining, p.queued
	p.mu.Unlock()
	s.Cleanup = snapshot.Cleanup{Last: cleanup.last, Total: cleanup.total, AvgLifetime: cleanup.averageLifetime()}
}
