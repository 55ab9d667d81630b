// Package settings reads the service's settings from environment variables and checks every one of them, so that a
// wrong value stops a process at its start with a sentence that names the setting. It starts nothing and looks nothing
// up: whether an address answers or a program exists is for those who use them.
package settings

import (
	"log/slog"
	"net/url"
	"time"
)

// Common are the settings fronts and instances share.
//
// Of each setting the tags tell its name (env), what holds when it is unset or blank (envDefault, or in words: unset),
// what a value must be (must) and what it is for (about).
type Common struct {
	Port              int        `env:"PORT" envDefault:"8080" must:"be a whole number from 1 to 65535" about:"port to listen on"`
	RedisURL          Secret     `env:"REDIS_URL" envDefault:"redis://127.0.0.1:6379/0" must:"be redis://host:port/database, or rediss:// for TLS" about:"Redis that holds who owns which user"`
	RedisCA           string     `env:"REDIS_CA" unset:"the system's" must:"be certificates in PEM form" about:"who may have signed Redis's certificate"`
	FirestoreProject  string     `env:"FIRESTORE_PROJECT" unset:"none" must:"be a Google Cloud project id" about:"project whose Firestore holds the instances' snapshots"`
	FirestoreDatabase string     `env:"FIRESTORE_DATABASE" envDefault:"(default)" must:"be (default) or a database id of 4 to 63 lower-case letters, digits and hyphens" about:"database in it"`
	HopKeys           Secret     `env:"HOP_KEYS" unset:"required" must:"be one or more comma-separated keys of at least 32 characters each" about:"what fronts sign requests to instances with; the first signs, all verify"`
	LogLevel          slog.Level `env:"LOG_LEVEL" envDefault:"info" must:"be debug, info, warn or error" about:"least severe log lines that are written"`
	LogFormat         string     `env:"LOG_FORMAT" envDefault:"json" must:"be json or text" about:"json is in Cloud Logging's form"`
	MaxBodyBytes      Size       `env:"MAX_BODY_BYTES" envDefault:"33554432" must:"be a size from 1KiB to 1GiB, in bytes or as 512KiB, 32MiB, 1GiB" about:"largest request body"`
}

// Front are the settings of a front.
type Front struct {
	Common
	StatsToken     Secret  `env:"STATS_TOKEN" unset:"none" must:"be printable ASCII without spaces" about:"when set, stats need Authorization: Bearer with it"`
	APIKeys        Secret  `env:"API_KEYS" unset:"none" must:"be comma-separated SHA-256 digests of keys, 64 hex digits each" about:"when set, clients need one of the keys, as x-claudepool-key, x-api-key or a bearer token"`
	RateLimitUser  Rate    `env:"RATE_LIMIT_USER" unset:"off" must:"be a number of requests per s, m or h, such as 60/m" about:"requests of one user, at all fronts together"`
	RateLimitAddr  Rate    `env:"RATE_LIMIT_ADDR" unset:"off" must:"be a number of requests per s, m or h, such as 60/m" about:"requests from one address, at all fronts together"`
	AllowedOrigins Origins `env:"ALLOWED_ORIGINS" unset:"none" must:"be comma-separated origins such as https://app.example.com, or * alone" about:"origins whose pages may use the service from a browser"`
	TrustedProxies int     `env:"TRUSTED_PROXIES" envDefault:"0" must:"be a whole number from 0 to 10" about:"proxies in front that append to X-Forwarded-For, from which the client's address is taken: 1 on Cloud Run, 2 with a load balancer before it"`
}

// Pool are the settings of a pool instance.
type Pool struct {
	Common
	AdvertiseAddr    string  `env:"ADVERTISE_ADDR" unset:"own IP from the metadata server + PORT" must:"be host:port" about:"where fronts reach this instance"`
	ClaudeBin        string  `env:"CLAUDE_BIN" envDefault:"claude" must:"be a program's name or path" about:"the claude CLI"`
	AnthropicBaseURL url.URL `env:"ANTHROPIC_BASE_URL" envDefault:"https://api.anthropic.com" must:"be an absolute http or https URL without user, query or fragment" about:"where the broker sends API calls"`
	WorkspacesRoot   string  `env:"WORKSPACES_ROOT" envDefault:"/workspaces" must:"be an absolute path" about:"folder of the conversations' homes"`

	IdleTimeout     time.Duration `env:"IDLE_TIMEOUT" envDefault:"5m" must:"be a duration of at least 1ms, such as 5m" about:"how long an idle process is kept"`
	CleanupInterval time.Duration `env:"CLEANUP_INTERVAL" envDefault:"60s" must:"be a duration of at least 1ms, such as 60s" about:"longest sleep of the reaper"`
	WorkspaceTTL    time.Duration `env:"WORKSPACE_TTL" envDefault:"24h" must:"be a duration of at least 1ms, such as 24h" about:"how long an unused conversation's files are kept"`

	Standby             int `env:"STANDBY" envDefault:"2" must:"be a whole number from 0 to 1000" about:"least number of processes that are started in advance; more after bursts of new users"`
	MaxProcesses        int `env:"MAX_PROCESSES" unset:"from memory" must:"be a whole number from 0 to 10000, 0 for as many as memory allows" about:"processes of this instance"`
	MaxProcessesPerUser int `env:"MAX_PROCESSES_PER_USER" envDefault:"4" must:"be a whole number from 1 to 10000" about:"processes, and so conversations at a time, of one user"`
	MaxConversations    int `env:"MAX_CONVERSATIONS_PER_USER" envDefault:"32" must:"be a whole number from 1 to 100000" about:"conversations of one user whose files are kept; then the longest unused ones give way"`
	QueueLimit          int `env:"QUEUE_LIMIT" envDefault:"8" must:"be a whole number from 0 to 100000" about:"requests that may wait for one conversation"`

	TurnTimeout    time.Duration `env:"TURN_TIMEOUT" envDefault:"30m" must:"be a duration of at least 1ms, such as 30m" about:"longest turn"`
	QueueTimeout   time.Duration `env:"QUEUE_TIMEOUT" envDefault:"2m" must:"be a duration of at least 1ms, such as 2m" about:"longest wait for a conversation"`
	SilenceTimeout time.Duration `env:"SILENCE_TIMEOUT" envDefault:"5m" must:"be a duration of at least 45s, such as 5m" about:"longest API call without any output"`
	SpawnTimeout   time.Duration `env:"SPAWN_TIMEOUT" envDefault:"30s" must:"be a duration of at least 1ms, such as 30s" about:"longest start of a process"`
	DrainTimeout   time.Duration `env:"DRAIN_TIMEOUT" envDefault:"8s" must:"be a duration of at least 1ms, such as 8s" about:"how long running turns may go on after SIGTERM"`

	WorkspaceBytes Size `env:"WORKSPACE_MAX_BYTES" envDefault:"2GiB" must:"be a size from 16MiB to 1TiB, in bytes or as 512MiB, 2GiB" about:"what all files of one user may take on disk"`
	WorkspaceFiles int  `env:"WORKSPACE_MAX_FILES" envDefault:"200000" must:"be a whole number from 100 to 100000000" about:"how many files one user may have"`

	ArchiveTTL      time.Duration `env:"ARCHIVE_TTL" envDefault:"168h" must:"be a duration such as 168h, or 0" about:"how long conversations are kept for whichever instance serves their user next, sealed with the user's token; 0 is not at all"`
	ArchiveDir      string        `env:"ARCHIVE_DIR" unset:"Firestore, where there is a project" must:"be an absolute path" about:"folder to keep them in instead, for instances of one machine"`
	ArchiveMaxBytes Size          `env:"ARCHIVE_MAX_BYTES" envDefault:"16MiB" must:"be a size from 64KiB to 64MiB, in bytes or as 512KiB, 16MiB" about:"largest transcript that is kept"`

	MaxProcessRSS Size `env:"MAX_PROCESS_RSS" envDefault:"2GiB" must:"be a size from 16MiB to 1TiB, in bytes or as 512MiB, 2GiB" about:"memory of a process and all it started, over which it is replaced between turns"`

	Isolation    string   `env:"ISOLATION" envDefault:"best-effort" must:"be require, best-effort or off" about:"whether to start where a protection is missing; off is none at all"`
	UIDBase      int      `env:"UID_BASE" envDefault:"2000000000" must:"be a whole number from 1000 to 4000000000" about:"first of the user ids that processes run under, when the service is root"`
	UIDCount     int      `env:"UID_COUNT" envDefault:"10000" must:"be a whole number from 8 to 1000000" about:"user ids of this instance, one for each conversation whose files are kept; instances of one machine take adjoining blocks"`
	ConnectPorts []uint16 `env:"CONNECT_PORTS" envDefault:"53,443" must:"be comma-separated TCP ports from 1 to 65535" about:"TCP ports that confined processes may connect to, on any host"`
	BindPorts    []uint16 `env:"BIND_PORTS" unset:"none" must:"be comma-separated TCP ports from 1 to 65535" about:"TCP ports that confined processes may listen on"`

	PermissionMode string `env:"PERMISSION_MODE" unset:"bypassPermissions where isolation holds, else default" must:"be default, acceptEdits, plan, dontAsk or bypassPermissions" about:"highest permission mode a request may ask for, and that of requests which don't ask"`
}

// LoadFront reads a front's settings from an environment in os.Environ's form. Its error tells of everything that is
// wrong, one line each.
func LoadFront(environ []string) (Front, error) {
	var front Front
	err := load(&front, front.sound, environ)
	return front, err
}

// LoadPool reads an instance's settings as LoadFront does a front's.
func LoadPool(environ []string) (Pool, error) {
	var pool Pool
	err := load(&pool, pool.sound, environ)
	return pool, err
}
