package settings

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const hopKey = "HOP_KEYS=0123456789abcdef0123456789abcdef"

// design is the design's table of settings, with what it says about unset ones.
var design = []struct{ name, value, unset, of string }{
	{"PORT", "8080", "", OfBoth},
	{"REDIS_URL", "redis://127.0.0.1:6379/0", "", OfBoth},
	{"REDIS_CA", "", "the system's", OfBoth},
	{"FIRESTORE_PROJECT", "", "none", OfBoth},
	{"FIRESTORE_DATABASE", "(default)", "", OfBoth},
	{"HOP_KEYS", "", "required", OfBoth},
	{"LOG_LEVEL", "info", "", OfBoth},
	{"LOG_FORMAT", "json", "", OfBoth},
	{"MAX_BODY_BYTES", "33554432", "", OfBoth},
	{"METRICS_ADDR", "", "none", OfBoth},
	{"TRACES_PER_SECOND", "20", "", OfBoth},
	{"STATS_TOKEN", "", "none", OfFront},
	{"API_KEYS", "", "none", OfFront},
	{"RATE_LIMIT_USER", "", "off", OfFront},
	{"RATE_LIMIT_ADDR", "", "off", OfFront},
	{"ALLOWED_ORIGINS", "", "none", OfFront},
	{"TRUSTED_PROXIES", "0", "", OfFront},
	{"ADVERTISE_ADDR", "", "own IP from the metadata server + PORT", OfPool},
	{"CLAUDE_BIN", "claude", "", OfPool},
	{"ANTHROPIC_BASE_URL", "https://api.anthropic.com", "", OfPool},
	{"TRACE_UPSTREAM", "false", "", OfPool},
	{"WORKSPACES_ROOT", "/workspaces", "", OfPool},
	{"IDLE_TIMEOUT", "5m", "", OfPool},
	{"CLEANUP_INTERVAL", "60s", "", OfPool},
	{"WORKSPACE_TTL", "24h", "", OfPool},
	{"STANDBY", "2", "", OfPool},
	{"PARKED", "1", "", OfPool},
	{"MAX_PROCESSES", "", "from memory", OfPool},
	{"MAX_PROCESSES_PER_USER", "4", "", OfPool},
	{"MAX_CONVERSATIONS_PER_USER", "32", "", OfPool},
	{"QUEUE_LIMIT", "8", "", OfPool},
	{"TURN_TIMEOUT", "30m", "", OfPool},
	{"QUEUE_TIMEOUT", "2m", "", OfPool},
	{"SILENCE_TIMEOUT", "5m", "", OfPool},
	{"SPAWN_TIMEOUT", "30s", "", OfPool},
	{"APPROVAL_TIMEOUT", "10m", "", OfPool},
	{"DRAIN_TIMEOUT", "8s", "", OfPool},
	{"WORKSPACE_MAX_BYTES", "2GiB", "", OfPool},
	{"WORKSPACE_MAX_FILES", "200000", "", OfPool},
	{"ARCHIVE_TTL", "168h", "", OfPool},
	{"ARCHIVE_DIR", "", "Firestore, where there is a project", OfPool},
	{"ARCHIVE_MAX_BYTES", "16MiB", "", OfPool},
	{"LOG_MAX_BYTES", "256MiB", "", OfPool},
	{"MAX_PROCESS_RSS", "2GiB", "", OfPool},
	{"ISOLATION", "best-effort", "", OfPool},
	{"UID_BASE", "2000000000", "", OfPool},
	{"UID_COUNT", "10000", "", OfPool},
	{"CONNECT_PORTS", "53,443", "", OfPool},
	{"BIND_PORTS", "", "none", OfPool},
	{"APPROVALS", "true", "", OfPool},
	{"BUDGET_USER", "", "none", OfPool},
	{"BUDGET_KEY", "", "none", OfPool},
	{"PERMISSION_MODE", "", "bypassPermissions where isolation holds, else default", OfPool},
}

func TestList_IsTheTableOfTheDesign(t *testing.T) {
	list := List()
	require.Len(t, list, len(design))
	for i, want := range design {
		got := list[i]
		require.Equal(t, want.name, got.Name)
		require.Equal(t, want.value, got.Default, want.name)
		require.Equal(t, want.unset, got.Unset, want.name)
		require.Equal(t, want.of, got.Of, want.name)
		require.NotEmpty(t, got.Must, want.name)
		require.NotEmpty(t, got.About, want.name)
	}
}

func TestTexts_AreThoseOfTheSettings(t *testing.T) {
	named := make(map[string]bool)
	for _, of := range []any{Front{}, Pool{}, Scaler{}} {
		for _, field := range fieldsOf(reflect.TypeOf(of)) {
			name := field.Tag.Get("env")
			named[name] = true
			require.NotEmpty(t, texts[name].must, name)
		}
	}
	for name := range texts {
		require.True(t, named[name], "%s is no setting", name)
	}
}

func TestList_MarksWhatIsSecret(t *testing.T) {
	var secret []string
	for _, s := range List() {
		if s.Secret {
			secret = append(secret, s.Name)
		}
	}
	require.Equal(t, []string{"REDIS_URL", "HOP_KEYS", "STATS_TOKEN", "API_KEYS"}, secret)
}

func TestLoad_HopKeysAreAllThatIsNeeded(t *testing.T) {
	front, err := LoadFront([]string{hopKey})
	require.NoError(t, err)
	require.Equal(t, 8080, front.Port)
	require.Equal(t, "redis://127.0.0.1:6379/0", front.RedisURL.Reveal())
	require.Equal(t, slog.LevelInfo, front.LogLevel)
	require.Equal(t, Size(32<<20), front.MaxBodyBytes)
	require.Empty(t, front.StatsToken.Reveal())

	pool, err := LoadPool([]string{hopKey})
	require.NoError(t, err)
	require.Equal(t, "https://api.anthropic.com", pool.AnthropicBaseURL.String())
	require.Equal(t, 5*time.Minute, pool.IdleTimeout)
	require.Equal(t, 24*time.Hour, pool.WorkspaceTTL)
	require.Equal(t, Size(2<<30), pool.MaxProcessRSS)
	require.Equal(t, []int{0, 4, 8}, []int{pool.MaxProcesses, pool.MaxProcessesPerUser, pool.QueueLimit})
	require.Equal(t, []string{"best-effort", "", ""}, []string{pool.Isolation, pool.PermissionMode, pool.AdvertiseAddr})
}

func TestLoad_BlankIsUnset(t *testing.T) {
	pool, err := LoadPool([]string{hopKey, "PORT=", "IDLE_TIMEOUT=  ", "ISOLATION="})
	require.NoError(t, err)
	require.Equal(t, 8080, pool.Port)
	require.Equal(t, 5*time.Minute, pool.IdleTimeout)
}

func TestLoad_HopKeysAreRequired(t *testing.T) {
	for _, environ := range [][]string{nil, {"HOP_KEYS= "}} {
		_, err := LoadFront(environ)
		require.EqualError(t, err, "HOP_KEYS must be one or more comma-separated keys of at least 32 characters each")
	}
}

func TestLoad_TakesWhatTheRulesAllow(t *testing.T) {
	for _, setting := range []string{
		"PORT=1", "PORT=65535", "REDIS_URL=rediss://user:p%40ss@redis.internal:6380/3", "REDIS_URL=redis://[::1]:6379",
		"FIRESTORE_PROJECT=my-project-1", "FIRESTORE_PROJECT=example.com:my-project", "FIRESTORE_DATABASE=stats",
		"HOP_KEYS=" + strings.Repeat("a", 32) + " , " + strings.Repeat("b",
			40), "LOG_LEVEL=debug", "LOG_LEVEL=ERROR", "LOG_FORMAT=text",
		"METRICS_ADDR=:9464", "METRICS_ADDR=[::1]:9464", "METRICS_ADDR=10.0.0.1:80", "TRACE_UPSTREAM=1",
		"MAX_BODY_BYTES=1KiB", "MAX_BODY_BYTES=64 MiB", "ADVERTISE_ADDR=10.0.0.1:8080", "ADVERTISE_ADDR=[fd00::1]:80",
		"ADVERTISE_ADDR=pool-1:9000", "CLAUDE_BIN=/opt/claude", "ANTHROPIC_BASE_URL=http://127.0.0.1:9999/base",
		"WORKSPACES_ROOT=/tmp/w", "IDLE_TIMEOUT=3s", "IDLE_TIMEOUT=1h30m", "MAX_PROCESSES=0", "MAX_PROCESSES=200",
		"QUEUE_LIMIT=0", "QUEUE_LIMIT=300", "MAX_PROCESS_RSS=512MiB", "ISOLATION=require", "ISOLATION=off",
		"PERMISSION_MODE=plan", "PERMISSION_MODE=bypassPermissions",
	} {
		_, err := LoadPool([]string{hopKey, setting})
		require.NoError(t, err, setting)
	}
	for _, setting := range []string{"STATS_TOKEN=s3cret-token", "API_KEYS=" + strings.Repeat("0aF9", 16),
		"API_KEYS= " + strings.Repeat("a", 64) + " , " + strings.Repeat("b",
			64), "RATE_LIMIT_ADDR=1/h", "TRUSTED_PROXIES=2"} {
		_, err := LoadFront([]string{hopKey, setting})
		require.NoError(t, err, setting)
	}
	front, err := LoadFront([]string{hopKey, "RATE_LIMIT_USER= 60/m ", "RATE_LIMIT_ADDR="})
	require.NoError(t, err)
	require.Equal(t, Rate{60, time.Minute}, front.RateLimitUser)
	require.Equal(t, Rate{}, front.RateLimitAddr)
	require.Empty(t, front.AllowedOrigins)
	for list, want := range map[string]Origins{
		"*": {"*"}, " https://app.example.com , http://localhost:3000": {"https://app.example.com", "http://localhost:3000"},
		"http://[::1]:8080": {"http://[::1]:8080"}, "capacitor://localhost": {"capacitor://localhost"},
	} {
		front, err := LoadFront([]string{hopKey, "ALLOWED_ORIGINS=" + list})
		require.NoError(t, err, list)
		require.Equal(t, want, front.AllowedOrigins)
	}
}

func TestLoad_NamesTheSettingThatIsWrongAndKeepsItsValueToItself(t *testing.T) {
	ofFront := map[string]bool{}
	for _, s := range List() {
		ofFront[s.Name] = s.Of == OfFront
	}
	for name, values := range map[string][]string{
		"PORT":     {"0", "-1", "65536", "hunter2", "80.5", "99999999999999999999"},
		"REDIS_CA": {"hunter2", "-----BEGIN CERTIFICATE-----"},
		"REDIS_URL": {"hunter2", "http://:hunter2@h:1", "redis://:hunter2@h:1/x", "redis://:hunter2@h:99999999/\x7f",
			"redis://%zzhunter2", "unix://hunter2"},
		"METRICS_ADDR":       {"hunter2", ":0", "hunter2:x", ":8080", ":65536", "h h:1"},
		"TRACES_PER_SECOND":  {"0", "-1", "hunter2", "10001", "1.5"},
		"TRACE_UPSTREAM":     {"hunter2", "2", "yes"},
		"FIRESTORE_PROJECT":  {"Hunter2", "a/hunter2", "hunter2\n", "x"},
		"FIRESTORE_DATABASE": {"default)", "Hunter2", "db", "hunter2/"},
		"HOP_KEYS": {"hunter2", strings.Repeat("h", 31), strings.Repeat("h", 32) + ",", strings.Repeat("h", 32) +
			",hunter2"},
		"LOG_LEVEL":      {"hunter2", "INFO+1", "trace"},
		"LOG_FORMAT":     {"hunter2", "JSON"},
		"MAX_BODY_BYTES": {"0", "-5", "hunter2", "1023", "2GiB", "1.5MiB", "9999999999TiB", "MiB"},
		"STATS_TOKEN":    {"hunter2 hunter2", "hunter2\x01", "hünter2"},
		"API_KEYS": {"hunter2", strings.Repeat("a", 63), strings.Repeat("g", 64), strings.Repeat("a", 64) + ",",
			strings.Repeat("a", 64) + ",hunter2"},
		"RATE_LIMIT_USER": {"hunter2", "60", "0/m", "-1/m", "60/d", "60/", "/m", "1000001/s", "1.5/s", "60/m/m"},
		"RATE_LIMIT_ADDR": {"hunter2", "60/hunter2"},
		"ALLOWED_ORIGINS": {"hunter2", "null", "*,https://hunter2", "https://a,*", "*.hunter2", "https://*.hunter2",
			"https://hunter2/", "https://u@hunter2",
			"https://Hunter2", "https://hunter2:443", "http://hunter2:80", "https://hunter2?x", "https://a,",
			"https://a https://hunter2", "//hunter2"},
		"TRUSTED_PROXIES": {"-1", "11", "hunter2"},
		"ADVERTISE_ADDR":  {"hunter2", ":8080", "h:0", "h:65536", "h:http", "hun ter2:80", "::1:80:"},
		"CLAUDE_BIN":      {"hunter2\x00"},
		"ANTHROPIC_BASE_URL": {"hunter2", "ftp://hunter2", "https://", "https://:443", "https://u:hunter2@h",
			"https://h?hunter2", "https://h?", "https://h#hunter2", "/v1", "http://%zzhunter2"},
		"WORKSPACES_ROOT":            {"hunter2", "./hunter2", "/hunter2\x00"},
		"IDLE_TIMEOUT":               {"0", "0s", "-1s", "hunter2", "5", "1us"},
		"CLEANUP_INTERVAL":           {"0s", "hunter2"},
		"WORKSPACE_TTL":              {"0s", "1d"},
		"MAX_PROCESSES":              {"-1", "hunter2", "10001"},
		"MAX_PROCESSES_PER_USER":     {"0", "-1", "hunter2"},
		"MAX_CONVERSATIONS_PER_USER": {"0", "-1", "hunter2"},
		"QUEUE_LIMIT":                {"-1", "hunter2", "1e3"},
		"TURN_TIMEOUT":               {"0s", "hunter2"},
		"QUEUE_TIMEOUT":              {"0s", "hunter2"},
		"SILENCE_TIMEOUT":            {"0s", "44s", "hunter2"},
		"SPAWN_TIMEOUT":              {"0s", "hunter2"},
		"APPROVALS":                  {"hunter2", "yes please"},
		"APPROVAL_TIMEOUT":           {"0s", "hunter2"},
		"DRAIN_TIMEOUT":              {"-8s", "hunter2"},
		"WORKSPACE_MAX_BYTES":        {"0", "1MiB", "2TiB", "hunter2"},
		"WORKSPACE_MAX_FILES":        {"0", "99", "-1", "hunter2", "1e6"},
		"ARCHIVE_TTL":                {"-1h", "hunter2", "7d"},
		"ARCHIVE_DIR":                {"hunter2", "./hunter2", "/hunter2\x00"},
		"ARCHIVE_MAX_BYTES":          {"0", "1KiB", "65MiB", "hunter2"},
		"LOG_MAX_BYTES":              {"0", "1KiB", "65GiB", "hunter2"},
		"MAX_PROCESS_RSS":            {"0", "1MiB", "2TiB", "16777217TiB", "hunter2", "2GB", "-2GiB", "+2GiB"},
		"ISOLATION":                  {"hunter2", "Require", "on"},
		"UID_BASE":                   {"hunter2", "0", "999", "4000000001"},
		"UID_COUNT":                  {"hunter2", "0", "1000001"},
		"CONNECT_PORTS":              {"hunter2", "0", "443;80", "65536", "443,-1"},
		"BIND_PORTS":                 {"hunter2", "0", "65536"},
		"PERMISSION_MODE":            {"hunter2", "bypass", "Default"},
	} {
		for _, value := range values {
			environ := []string{hopKey, name + "=" + value}
			_, err := LoadPool(environ)
			if ofFront[name] {
				_, err = LoadFront(environ)
			}
			require.Error(t, err, "%s=%q", name, value)
			require.True(t, strings.HasPrefix(err.Error(), name+" must be "), err)
			require.NotContains(t, strings.ToLower(err.Error()), "hunter2")
			require.NotContains(t, err.Error(), "\n", "one problem is one line")
		}
	}
}

func TestSound_JudgesEverySettingOfItsSide(t *testing.T) {
	var front Front
	var pool Pool
	ofFront, ofPool := front.validate(), pool.validate()
	for _, s := range List() {
		_, inFront := ofFront[s.Name]
		_, inPool := ofPool[s.Name]
		require.Equal(t, s.Of != OfPool, inFront, s.Name)
		require.Equal(t, s.Of != OfFront, inPool, s.Name)
	}
}

func TestLoad_TellsEverythingThatIsWrongAtOnce(t *testing.T) {
	_, err := LoadPool([]string{"PORT=x", "QUEUE_LIMIT=-1", "ISOLATION=never", "STATS_TOKEN=not mine"})
	require.EqualError(t, err, strings.Join([]string{
		"PORT must be a whole number from 1 to 65535",
		"HOP_KEYS must be one or more comma-separated keys of at least 32 characters each",
		"QUEUE_LIMIT must be a whole number from 0 to 100000",
		"ISOLATION must be require, best-effort or off",
	}, "\n"))
}

func TestSecret_ShowsItselfToNobody(t *testing.T) {
	pool, err := LoadPool([]string{"HOP_KEYS=" + strings.Repeat("hunter2", 5), "REDIS_URL=redis://:hunter2@127.0.0.1:1"})
	require.NoError(t, err)
	secret := pool.RedisURL
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		for _, value := range []any{secret, &secret, pool, &pool, []Secret{secret}, map[string]Secret{"k": secret},
			struct{ hidden Secret }{secret}} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
	}
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(handler).Info("x", "secret", secret, "pool", pool, "in", struct{ hidden Secret }{secret})
	}
	body, err := json.Marshal(pool)
	require.NoError(t, err)
	out.Write(body)
	require.Contains(t, out.String(), redacted)
	require.NotContains(t, out.String(), "hunter2")
	require.NotContains(t, strings.ToLower(out.String()), fmt.Sprintf("%x", "hunter2"))
	require.Equal(t, "redis://:hunter2@127.0.0.1:1", secret.Reveal())
	require.Empty(t, Secret{}.String())
}

func TestSize_WritesWhatItReads(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1023": 1023, "1KiB": 1024, "2GiB": 2 << 30, "1536MiB": 1536 << 20,
		"3TiB": 3 << 40} {
		var size Size
		require.NoError(t, size.UnmarshalText([]byte(text)))
		require.Equal(t, want, size)
		require.Equal(t, text, size.String())
	}
}
