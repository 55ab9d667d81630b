package settings

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/redis/go-redis/v9"
)

const (
	// minHopKey is the least length of a hop key, the same that those who sign ask for.
	minHopKey   = 32
	minDuration = time.Millisecond
	// minSilence is above the 30 s after which the CLI itself writes a line while it compacts a conversation.
	minSilence = 45 * time.Second
)

var (
	// projectID takes those of old projects too, which have a domain in front.
	projectID  = regexp.MustCompile(`^([a-z0-9.-]+:)?[a-z][a-z0-9-]{1,61}[a-z0-9]$`)
	databaseID = regexp.MustCompile(`^(\(default\)|[a-z][a-z0-9-]{2,61}[a-z0-9])$`)
	apiKeys    = regexp.MustCompile(`^$|^ *[0-9A-Fa-f]{64} *(, *[0-9A-Fa-f]{64} *)*$`)
	levels     = []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	isolations = []string{"require", "best-effort", "off"}
	// permissionModes has the empty one for a mode that the pool decides itself.
	permissionModes = []string{"", "default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"}
)

// load fills the struct from the environment. Its error says what each wrong setting must be and never what it is:
// whatever a variable was set to by mistake may be a secret.
func load(into any, validate func() map[string]bool, environ []string) error {
	environment := env.ToMap(environ)
	for name, value := range environment {
		if strings.TrimSpace(value) == "" {
			delete(environment, name)
		}
	}
	unread, err := unreadable(env.ParseWithOptions(into, env.Options{Environment: environment}))
	if err != nil {
		return err
	}
	var wrong []error
	ok := validate()
	for _, field := range fieldsOf(reflect.TypeOf(into).Elem()) {
		name := field.Tag.Get("env")
		if unread[field.Name] || !ok[name] {
			wrong = append(wrong, fmt.Errorf("%s must %s", name, texts[name].must))
		}
	}
	return errors.Join(wrong...)
}

// unreadable returns the names of the fields whose values could not be read as their type. An error is left for what
// is wrong with the struct itself.
func unreadable(err error) (map[string]bool, error) {
	var all env.AggregateError
	if err == nil || !errors.As(err, &all) {
		return nil, err
	}
	fields := make(map[string]bool)
	for _, one := range all.Errors {
		var parse env.ParseError
		if !errors.As(one, &parse) {
			return nil, one
		}
		fields[parse.Name] = true
	}
	return fields, nil
}

// validate tells of each setting whether its value is one it may have.
func (c *Common) validate() map[string]bool {
	_, redisErr := redis.ParseURL(c.RedisURL.Reveal())
	return map[string]bool{
		"PORT":               c.Port >= 1 && c.Port <= 65535,
		"REDIS_CA":           c.RedisCA == "" || x509.NewCertPool().AppendCertsFromPEM([]byte(c.RedisCA)),
		"REDIS_URL":          redisErr == nil && !strings.HasPrefix(c.RedisURL.Reveal(), "unix:"),
		"FIRESTORE_PROJECT":  c.FirestoreProject == "" || projectID.MatchString(c.FirestoreProject),
		"FIRESTORE_DATABASE": databaseID.MatchString(c.FirestoreDatabase),
		"HOP_KEYS":           validHopKeys(c.HopKeys.Reveal()),
		"LOG_LEVEL":          slices.Contains(levels, c.LogLevel),
		"LOG_FORMAT":         c.LogFormat == "json" || c.LogFormat == "text",
		"MAX_BODY_BYTES":     c.MaxBodyBytes >= 1<<10 && c.MaxBodyBytes <= 1<<30,
		"METRICS_ADDR":       c.MetricsAddr == "" || validListen(c.MetricsAddr, c.Port),
		"TRACES_PER_SECOND":  c.TracesPerSecond >= 1 && c.TracesPerSecond <= 10_000,
	}
}

func (f *Front) validate() map[string]bool {
	ok := f.Common.validate()
	ok["STATS_TOKEN"] = visible(f.StatsToken.Reveal())
	ok["API_KEYS"] = apiKeys.MatchString(f.APIKeys.Reveal())
	ok["RATE_LIMIT_USER"], ok["RATE_LIMIT_ADDR"], ok["ALLOWED_ORIGINS"] = true, true, true // all that can be read
	ok["TRUSTED_PROXIES"] = f.TrustedProxies >= 0 && f.TrustedProxies <= 10
	return ok
}

func (p *Pool) validate() map[string]bool {
	ok := p.Common.validate()
	ok["ADVERTISE_ADDR"] = p.AdvertiseAddr == "" || validAddr(p.AdvertiseAddr)
	ok["CLAUDE_BIN"] = !strings.ContainsRune(p.ClaudeBin, 0)
	ok["ANTHROPIC_BASE_URL"] = validBaseURL(&p.AnthropicBaseURL)
	ok["TRACE_UPSTREAM"] = true // all that can be read
	ok["WORKSPACES_ROOT"] = filepath.IsAbs(p.WorkspacesRoot) && !strings.ContainsRune(p.WorkspacesRoot, 0)
	ok["STANDBY"] = p.Standby >= 0 && p.Standby <= 1000
	ok["PARKED"] = p.Parked >= 0 && p.Parked <= 1000
	ok["MAX_PROCESSES"] = p.MaxProcesses >= 0 && p.MaxProcesses <= 10_000
	ok["MAX_PROCESSES_PER_USER"] = p.MaxProcessesPerUser >= 1 && p.MaxProcessesPerUser <= 10_000
	ok["MAX_CONVERSATIONS_PER_USER"] = p.MaxConversations >= 1 && p.MaxConversations <= 100_000
	ok["QUEUE_LIMIT"] = p.QueueLimit >= 0 && p.QueueLimit <= 100_000
	ok["WORKSPACE_MAX_BYTES"] = p.WorkspaceBytes >= 16<<20 && p.WorkspaceBytes <= 1<<40
	ok["WORKSPACE_MAX_FILES"] = p.WorkspaceFiles >= 100 && p.WorkspaceFiles <= 100_000_000
	ok["ARCHIVE_TTL"] = p.ArchiveTTL >= 0
	ok["ARCHIVE_DIR"] = p.ArchiveDir == "" || filepath.IsAbs(p.ArchiveDir) && !strings.ContainsRune(p.ArchiveDir, 0)
	ok["ARCHIVE_MAX_BYTES"] = p.ArchiveMaxBytes >= 64<<10 && p.ArchiveMaxBytes <= 64<<20
	ok["LOG_MAX_BYTES"] = p.LogMaxBytes >= 1<<20 && p.LogMaxBytes <= 64<<30
	ok["MAX_PROCESS_RSS"] = p.MaxProcessRSS >= 16<<20 && p.MaxProcessRSS <= 1<<40
	ok["ISOLATION"] = slices.Contains(isolations, p.Isolation)
	ok["UID_BASE"] = p.UIDBase >= 1000 && p.UIDBase <= 4_000_000_000
	ok["UID_COUNT"] = p.UIDCount >= 8 && p.UIDCount <= 1_000_000
	ok["CONNECT_PORTS"] = !slices.Contains(p.ConnectPorts, 0)
	ok["BIND_PORTS"] = !slices.Contains(p.BindPorts, 0)
	ok["BUDGET_USER"], ok["BUDGET_KEY"], ok["APPROVALS"] = true, true, true // all that can be read
	ok["PERMISSION_MODE"] = slices.Contains(permissionModes, p.PermissionMode)
	for name, d := range map[string]time.Duration{
		"IDLE_TIMEOUT": p.IdleTimeout, "CLEANUP_INTERVAL": p.CleanupInterval, "WORKSPACE_TTL": p.WorkspaceTTL,
		"TURN_TIMEOUT": p.TurnTimeout, "QUEUE_TIMEOUT": p.QueueTimeout,
		"SPAWN_TIMEOUT": p.SpawnTimeout, "APPROVAL_TIMEOUT": p.ApprovalTimeout, "DRAIN_TIMEOUT": p.DrainTimeout,
	} {
		ok[name] = d >= minDuration
	}
	ok["SILENCE_TIMEOUT"] = p.SilenceTimeout >= minSilence
	return ok
}

func validHopKeys(list string) bool {
	for key := range strings.SplitSeq(list, ",") {
		if len(strings.TrimSpace(key)) < minHopKey {
			return false
		}
	}
	return true
}

func validAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || !visible(addr) {
		return false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}

// validListen says that one can listen on the address, which may be of all hosts, and that the service doesn't.
func validListen(addr string, service int) bool {
	_, port, err := net.SplitHostPort(addr)
	number, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && number > 0 && int(number) != service && visible(addr)
}

func validBaseURL(u *url.URL) bool {
	if u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	return u.Hostname() != "" && u.User == nil && u.RawQuery == "" && !u.ForceQuery && u.Fragment == ""
}

// visible says that the text is printable ASCII without spaces, which any header takes.
func visible(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}
