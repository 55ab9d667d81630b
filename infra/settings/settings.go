// Package settings reads the service's settings from environment variables and checks every one of them, so that a
// wrong value stops a process at its start with a sentence that names the setting. It starts nothing and looks nothing
// up: whether an address answers or a program exists is for their users to find out.
package settings

import (
	"log/slog"
	"net/url"
	"time"
)

// Common are the settings fronts and instances share.
//
// The tags have a setting's name (env) and what holds when it is unset or blank (envDefault, or in words: unset); texts
// has what a value must be and what it is for.
type Common struct {
	Port              int        `env:"PORT" envDefault:"8080"`
	RedisURL          Secret     `env:"REDIS_URL" envDefault:"redis://127.0.0.1:6379/0"`
	RedisCA           string     `env:"REDIS_CA" unset:"the system's"`
	FirestoreProject  string     `env:"FIRESTORE_PROJECT" unset:"none"`
	FirestoreDatabase string     `env:"FIRESTORE_DATABASE" envDefault:"(default)"`
	HopKeys           Secret     `env:"HOP_KEYS" unset:"required"`
	LogLevel          slog.Level `env:"LOG_LEVEL" envDefault:"info"`
	LogFormat         string     `env:"LOG_FORMAT" envDefault:"json"`
	MaxBodyBytes      Size       `env:"MAX_BODY_BYTES" envDefault:"33554432"`
	MetricsAddr       string     `env:"METRICS_ADDR" unset:"none"`
	TracesPerSecond   int        `env:"TRACES_PER_SECOND" envDefault:"20"`
}

// Front are the settings of a front.
type Front struct {
	Common
	StatsToken     Secret  `env:"STATS_TOKEN" unset:"none"`
	APIKeys        Secret  `env:"API_KEYS" unset:"none"`
	RateLimitUser  Rate    `env:"RATE_LIMIT_USER" unset:"off"`
	RateLimitAddr  Rate    `env:"RATE_LIMIT_ADDR" unset:"off"`
	AllowedOrigins Origins `env:"ALLOWED_ORIGINS" unset:"none"`
	TrustedProxies int     `env:"TRUSTED_PROXIES" envDefault:"0"`
}

// Pool are the settings of a pool instance.
type Pool struct {
	Common
	AdvertiseAddr    string  `env:"ADVERTISE_ADDR" unset:"own IP from the metadata server + PORT"`
	ClaudeBin        string  `env:"CLAUDE_BIN" envDefault:"claude"`
	AnthropicBaseURL url.URL `env:"ANTHROPIC_BASE_URL" envDefault:"https://api.anthropic.com"`
	TraceUpstream    bool    `env:"TRACE_UPSTREAM" envDefault:"false"`
	WorkspacesRoot   string  `env:"WORKSPACES_ROOT" envDefault:"/workspaces"`

	IdleTimeout     time.Duration `env:"IDLE_TIMEOUT" envDefault:"5m"`
	CleanupInterval time.Duration `env:"CLEANUP_INTERVAL" envDefault:"60s"`
	WorkspaceTTL    time.Duration `env:"WORKSPACE_TTL" envDefault:"24h"`

	Standby             int `env:"STANDBY" envDefault:"2"`
	Parked              int `env:"PARKED" envDefault:"1"`
	MaxProcesses        int `env:"MAX_PROCESSES" unset:"from memory"`
	MaxProcessesPerUser int `env:"MAX_PROCESSES_PER_USER" envDefault:"4"`
	MaxConversations    int `env:"MAX_CONVERSATIONS_PER_USER" envDefault:"32"`
	QueueLimit          int `env:"QUEUE_LIMIT" envDefault:"8"`

	TurnTimeout     time.Duration `env:"TURN_TIMEOUT" envDefault:"30m"`
	QueueTimeout    time.Duration `env:"QUEUE_TIMEOUT" envDefault:"2m"`
	SilenceTimeout  time.Duration `env:"SILENCE_TIMEOUT" envDefault:"5m"`
	SpawnTimeout    time.Duration `env:"SPAWN_TIMEOUT" envDefault:"30s"`
	ApprovalTimeout time.Duration `env:"APPROVAL_TIMEOUT" envDefault:"10m"`
	DrainTimeout    time.Duration `env:"DRAIN_TIMEOUT" envDefault:"8s"`

	WorkspaceBytes Size `env:"WORKSPACE_MAX_BYTES" envDefault:"2GiB"`
	WorkspaceFiles int  `env:"WORKSPACE_MAX_FILES" envDefault:"200000"`

	ArchiveTTL      time.Duration `env:"ARCHIVE_TTL" envDefault:"168h"`
	ArchiveDir      string        `env:"ARCHIVE_DIR" unset:"Firestore, where there is a project"`
	ArchiveMaxBytes Size          `env:"ARCHIVE_MAX_BYTES" envDefault:"16MiB"`

	LogMaxBytes Size `env:"LOG_MAX_BYTES" envDefault:"256MiB"`

	MaxProcessRSS Size `env:"MAX_PROCESS_RSS" envDefault:"2GiB"`

	Isolation    string   `env:"ISOLATION" envDefault:"best-effort"`
	UIDBase      int      `env:"UID_BASE" envDefault:"2000000000"`
	UIDCount     int      `env:"UID_COUNT" envDefault:"10000"`
	ConnectPorts []uint16 `env:"CONNECT_PORTS" envDefault:"53,443"`
	BindPorts    []uint16 `env:"BIND_PORTS" unset:"none"`

	Approvals bool `env:"APPROVALS" envDefault:"true"`

	BudgetUser Budget `env:"BUDGET_USER" unset:"none"`
	BudgetKey  Budget `env:"BUDGET_KEY" unset:"none"`

	PermissionMode string `env:"PERMISSION_MODE" unset:"bypassPermissions where isolation holds, else default"`
}

// LoadFront reads a front's settings from an environment in os.Environ's form. Its error tells of everything that is
// wrong, one line each.
func LoadFront(environ []string) (Front, error) {
	var front Front
	err := load(&front, front.validate, environ)
	return front, err
}

// LoadPool reads an instance's settings as LoadFront does a front's.
func LoadPool(environ []string) (Pool, error) {
	var pool Pool
	err := load(&pool, pool.validate, environ)
	return pool, err
}
