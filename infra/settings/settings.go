// Package settings reads the service's settings from the environment and refuses, all at once and by name, those that
// can't be meant.
package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"claudepool/infra/hop"
)

// Common are the settings of front and pool.
type Common struct {
	Port              int           `env:"PORT" envDefault:"8080"`
	RedisURL          Secret        `env:"REDIS_URL" envDefault:"redis://127.0.0.1:6379/0"`
	FirestoreProject  string        `env:"FIRESTORE_PROJECT"`
	FirestoreDatabase string        `env:"FIRESTORE_DATABASE" envDefault:"(default)"`
	HopKeys           Secret        `env:"HOP_KEYS"`
	LogLevel          slog.Level    `env:"LOG_LEVEL" envDefault:"info"`
	LogFormat         string        `env:"LOG_FORMAT" envDefault:"json"`
	MaxBodyBytes      Size          `env:"MAX_BODY_BYTES" envDefault:"33554432"`
	IdleTimeout       time.Duration `env:"IDLE_TIMEOUT" envDefault:"5m"`
}

// Front are the settings of a front.
type Front struct {
	Common
	StatsToken Secret `env:"STATS_TOKEN"`
}

// Pool are the settings of a pool instance.
type Pool struct {
	Common
	AdvertiseAddr       string        `env:"ADVERTISE_ADDR"`
	ClaudeBin           string        `env:"CLAUDE_BIN" envDefault:"claude"`
	AnthropicBaseURL    string        `env:"ANTHROPIC_BASE_URL" envDefault:"https://api.anthropic.com"`
	WorkspacesRoot      string        `env:"WORKSPACES_ROOT" envDefault:"/workspaces"`
	WorkspaceTTL        time.Duration `env:"WORKSPACE_TTL" envDefault:"24h"`
	CleanupInterval     time.Duration `env:"CLEANUP_INTERVAL" envDefault:"60s"`
	MaxProcesses        int           `env:"MAX_PROCESSES" envDefault:"0"`
	MaxProcessesPerUser int           `env:"MAX_PROCESSES_PER_USER" envDefault:"4"`
	QueueLimit          int           `env:"QUEUE_LIMIT" envDefault:"8"`
	TurnTimeout         time.Duration `env:"TURN_TIMEOUT" envDefault:"30m"`
	QueueTimeout        time.Duration `env:"QUEUE_TIMEOUT" envDefault:"2m"`
	SilenceTimeout      time.Duration `env:"SILENCE_TIMEOUT" envDefault:"5m"`
	SpawnTimeout        time.Duration `env:"SPAWN_TIMEOUT" envDefault:"30s"`
	DrainTimeout        time.Duration `env:"DRAIN_TIMEOUT" envDefault:"8s"`
	MaxProcessRSS       Size          `env:"MAX_PROCESS_RSS" envDefault:"2GiB"`
	Isolation           string        `env:"ISOLATION" envDefault:"best-effort"`
	PermissionMode      string        `env:"PERMISSION_MODE"`
}

// Secret is a setting that no log, error or dump shows.
type Secret string

const redacted = "[redacted]"

// String hides the secret.
func (Secret) String() string { return redacted }

// GoString hides the secret.
func (Secret) GoString() string { return redacted }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Reveal returns the secret.
func (s Secret) Reveal() string { return string(s) }

// Size is a number of bytes, written plainly or with KiB, MiB or GiB.
type Size int64

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for suffix, factor := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = rest, factor
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 40)
	if err != nil {
		return errors.New("must be a number of bytes, such as 33554432 or 2GiB")
	}
	*s = Size(n * unit)
	return nil
}

// LoadFront reads a front's settings.
func LoadFront(environment map[string]string) (Front, error) {
	var s Front
	err := load(&s, environment)
	return s, join(err, s.Common.problems())
}

// LoadPool reads a pool instance's settings.
func LoadPool(environment map[string]string) (Pool, error) {
	var s Pool
	err := load(&s, environment)
	return s, join(err, append(s.Common.problems(), s.problems()...))
}

// join reports wrong values only once everything could be parsed: a value that couldn't is wrong already.
func join(err error, problems []error) error {
	if err != nil {
		return err
	}
	return errors.Join(problems...)
}

func load(target any, environment map[string]string) error {
	err := env.ParseWithOptions(target, env.Options{Environment: environment})
	var all env.AggregateError
	if !errors.As(err, &all) {
		return err
	}
	var problems []error
	for _, e := range all.Errors {
		var parse env.ParseError
		if errors.As(e, &parse) {
			e = fmt.Errorf("%s: can't be read as a %s", settingName(parse.Name), parse.Type)
		}
		problems = append(problems, e)
	}
	return errors.Join(problems...)
}

var camel = regexp.MustCompile(`([a-z])([A-Z])`)

// settingName is the environment's name of a field: MaxBodyBytes is MAX_BODY_BYTES.
func settingName(field string) string {
	return strings.ToUpper(camel.ReplaceAllString(field, "${1}_${2}"))
}

func (s Common) problems() (all []error) {
	check := checker(&all)
	check(s.Port > 0 && s.Port < 1<<16, "PORT", "must be a port number")
	u, err := url.Parse(s.RedisURL.Reveal())
	check(err == nil && (u.Scheme == "redis" || u.Scheme == "rediss") && u.Host != "", "REDIS_URL", "must be a redis:// or rediss:// URL")
	_, err = hop.ParseKeys(s.HopKeys.Reveal())
	check(err == nil, "HOP_KEYS", "must be one or more keys of at least 32 characters, separated by commas")
	check(s.LogFormat == "json" || s.LogFormat == "text", "LOG_FORMAT", "must be json or text")
	check(s.MaxBodyBytes >= 1024, "MAX_BODY_BYTES", "must be at least 1024")
	check(s.IdleTimeout > 0, "IDLE_TIMEOUT", "must be positive")
	return all
}

func (s Pool) problems() (all []error) {
	check := checker(&all)
	for name, d := range map[string]time.Duration{"WORKSPACE_TTL": s.WorkspaceTTL, "CLEANUP_INTERVAL": s.CleanupInterval,
		"TURN_TIMEOUT": s.TurnTimeout, "QUEUE_TIMEOUT": s.QueueTimeout, "SILENCE_TIMEOUT": s.SilenceTimeout,
		"SPAWN_TIMEOUT": s.SpawnTimeout, "DRAIN_TIMEOUT": s.DrainTimeout} {
		check(d > 0, name, "must be positive")
	}
	if s.AdvertiseAddr != "" {
		_, port, err := net.SplitHostPort(s.AdvertiseAddr)
		check(err == nil && port != "", "ADVERTISE_ADDR", "must be host:port")
	}
	u, err := url.Parse(s.AnthropicBaseURL)
	check(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.RawQuery == "",
		"ANTHROPIC_BASE_URL", "must be an http(s) URL without user and query")
	check(s.WorkspacesRoot != "", "WORKSPACES_ROOT", "must be a folder")
	check(s.ClaudeBin != "", "CLAUDE_BIN", "must be a program")
	check(s.MaxProcesses >= 0, "MAX_PROCESSES", "must not be negative; 0 takes what memory allows")
	check(s.MaxProcessesPerUser > 0, "MAX_PROCESSES_PER_USER", "must be positive")
	check(s.QueueLimit >= 0, "QUEUE_LIMIT", "must not be negative")
	check(s.MaxProcessRSS >= 1<<20, "MAX_PROCESS_RSS", "must be at least 1MiB")
	check(oneOf(s.Isolation, "require", "best-effort", "off"), "ISOLATION", "must be require, best-effort or off")
	check(oneOf(s.PermissionMode, "", "default", "acceptEdits", "plan", "bypassPermissions", "dontAsk"),
		"PERMISSION_MODE", "must be default, acceptEdits, plan, bypassPermissions or dontAsk")
	return all
}

func checker(all *[]error) func(ok bool, name, problem string) {
	return func(ok bool, name, problem string) {
		if !ok {
			*all = append(*all, fmt.Errorf("%s %s", name, problem))
		}
	}
}

func oneOf(value string, values ...string) bool {
	for _, v := range values {
		if v == value {
			return true
		}
	}
	return false
}
