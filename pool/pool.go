// Package pool keeps claude processes alive between requests: one per conversation, found again by its user, run one
// turn at a time, reaped when idle. It decides nothing about which instance a user belongs to; it asks its Ownership.
//
// A request's way is Server → Pool.Acquire → Handle.Turn → Handle.Release. Nothing is spawned, killed or awaited under
// the pool's lock: whoever has work to do on a conversation first takes its slot, then works without the lock.
package pool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/confine"
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
	QueueLimit          int // requests waiting for one conversation
	MaxProcessRSS       int64
	Quota               Space // of all workspaces of one user

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
}

// Pool holds the processes of one instance. Its methods may be called concurrently.
type Pool struct {
	opts  Options
	owner Ownership
	index index
	gate  gate
	turns *traffic

	wake    chan struct{} // buffered by one: the reaper has a new nearest deadline
	changed chan struct{} // buffered by one: a snapshot would look different now
	tend    chan struct{} // buffered by one: the standbys need a look

	life   context.Context // ends when turns are to be cut short
	cutAll context.CancelCauseFunc
	work   sync.WaitGroup // the pool's own goroutines

	mu       sync.Mutex // guards everything below, and what users and conversations say it guards
	users    map[string]*user
	slots    int // users' processes that exist or are being started or stopped
	standbys []*standby
	waking   int // standbys that are being started or stopped
	demand   demand
	misses   int64 // requests that a standby would have fitted, but none was ready
	draining bool
	empty    *sync.Cond // signalled when a request has left or a process is gone
	cleanup  cleanupStats
	froze    time.Time // when conversations' processes were frozen last

	archiveFailed time.Time // when the archive could not tell what it has
}

type cleanupStats struct {
	last     time.Time
	total    int64
	lifetime time.Duration // of all that were cleaned, summed
}

// New returns a running pool. Its owner has to call Close.
func New(opts Options, owner Ownership) *Pool {
	p := &Pool{
		opts: opts, owner: owner, index: index{root: opts.Workspaces}, gate: newGate(), turns: newTraffic(),
		wake:    make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		tend:    make(chan struct{}, 1),
		users:   make(map[string]*user),
	}
	if p.opts.MemoryShort == nil {
		p.opts.MemoryShort = func() bool { return false }
	}
	p.empty = sync.NewCond(&p.mu)
	p.life, p.cutAll = context.WithCancelCause(context.Background())
	p.goes(p.reap)
	p.goes(p.watchMemory)
	p.goes(p.watchSpace)
	p.goes(p.keepStandbys)
	if p.opts.Archive != nil {
		p.goes(p.greetArchive)
	}
	return p
}

// goes runs f as one of the pool's own goroutines, which Close waits for.
func (p *Pool) goes(f func()) {
	p.work.Add(1)
	go func() {
		defer p.work.Done()
		f()
	}()
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
	signal(p.tend)

	p.retireIdle(func(*conversation) bool { return true })
	p.waitEmpty(ctx)
}

// refuse has no request begin from now on, also none of those that wait.
func (p *Pool) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
	for _, u := range p.users {
		for _, c := range u.conversations {
			c.dismissWaitersLocked()
		}
	}
}

// Close cuts running turns short with an error for their clients, ends every process, gives up every user and returns
// when nothing is left. It may be called more than once.
func (p *Pool) Close() {
	p.refuse()
	p.cutAll(ErrClosing)
	p.retireIdle(func(*conversation) bool { return true })
	p.waitEmpty(context.Background())
	p.work.Wait()
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
	defer p.mu.Unlock()
	for ctx.Err() == nil && !p.isEmptyLocked() {
		p.empty.Wait()
	}
}

func (p *Pool) isEmptyLocked() bool {
	if p.slots+len(p.standbys)+p.waking > 0 {
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
// processes could give way.
func (p *Pool) Load() (reserved, idle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reserved = p.slots
	for _, u := range p.users {
		if u.requests > 0 && u.processes == 0 {
			reserved++
		}
		for _, c := range u.conversations {
			if c.idleLocked() {
				idle++
			}
		}
	}
	return reserved, idle
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

// Evict gives the user up as soon as its running and waiting turns have ended: its processes are stopped, then it is
// released. Requests that come meanwhile wait.
func (p *Pool) Evict(id string) {
	p.mu.Lock()
	if u := p.users[id]; u != nil {
		u.leaving = true
	}
	p.mu.Unlock()
	p.retireIdle(func(c *conversation) bool { return c.user.id == id })
	p.settleUser(id)
}

// allowed refuses what a request may not ask of this pool.
func (p *Pool) allowed(req *api.Request) error {
	if req.PermissionMode != "" && permissionRank(req.PermissionMode) > permissionRank(p.opts.PermissionMode) {
		return api.Invalid("permission_mode: %q is above what this service allows (%s)", req.PermissionMode, p.opts.PermissionMode)
	}
	if p.opts.Confined {
		return nil
	}
	for name, server := range req.MCPServers {
		if server.Command != "" {
			return api.Invalid("mcp_servers: %q has a command, which this service runs only while its isolation is in force", name)
		}
	}
	return nil
}

// permissionRank orders the permission modes by what they let a process do without anybody being asked.
func permissionRank(mode string) int {
	switch mode {
	case "plan":
		return 0
	case "default", "dontAsk":
		return 1
	case "acceptEdits":
		return 2
	}
	return 3
}
