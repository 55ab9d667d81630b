package pool

import (
	"log/slog"
	"time"

	"claudepool/infra/archive"
	"claudepool/infra/settings"
	"claudepool/infra/usage"
	"claudepool/pool/broker"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
	"claudepool/pool/workspace"
)

// Options are a pool's settings. All durations and numbers have to be positive, except Standby and QueueLimit, which
// may be 0.
type Options struct {
	Logger     *slog.Logger
	Launcher   *confine.Launcher
	Broker     *broker.Broker
	ClaudeBin  string // path of the CLI
	Workspaces string // this instance's own folder, free of symbolic links

	Standby             int // processes started in advance, at least
	Parked              int // of those for conversations that have a past; none without uids of their own
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
	ApprovalTimeout time.Duration // how long a turn waits for its client to answer what is asked
	SpawnTimeout    time.Duration

	// PermissionMode is the highest permission mode a request may ask for, and that of requests which don't ask.
	PermissionMode string
	// Confined says that uid, file and network protections are all in force, so that requests may name programs to
	// run before their credential has been checked.
	Confined bool
	// Approvals says that clients may approve what the permission mode alone doesn't allow, so that it is run.
	Approvals bool
	// Archive keeps conversations for the next instance; nil is none. ArchiveMaxBytes is the largest transcript it gets.
	Archive         archive.Store
	ArchiveMaxBytes int64
	// Ledger gets what turns take, and Usage reads it again; nil: nobody counts, and there are no budgets.
	Ledger *usage.Ledger
	Usage  *usage.Reader
	// Billed is told what each API call took that is paid for, and its cost in dollars. Nil is nobody.
	Billed     func(took broker.Usage, cost float64)
	BudgetUser settings.Budget
	BudgetKey  settings.Budget // of all who come by one key of the service

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

// fairRate is how many bytes a second a turn may hand over after its first fairBurst ones. No model writes a hundredth
// of it.
const fairRate, fairBurst = 2 << 20, 32 << 20
