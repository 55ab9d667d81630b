package logging

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// made returns n random characters of the alphabet.
func made(r *rand.Rand, alphabet string, n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(text)
}

// secrets returns one of each kind, as a text around the part that must not be seen.
func secrets(r *rand.Rand) map[string][2]string {
	oauth := "sk-ant-oat01-" + made(r, letters+"-_", 80)
	key := "sk-ant-api03-" + made(r, letters+"-_", 8+r.IntN(90))
	cp := "cp-" + made(r, "0123456789abcdef", 64)
	payload, mac := made(r, letters+"-_", 120), made(r, letters+"-_", 43)
	opaque, password := made(r, letters+"._~+/-", 30)+"==", made(r, letters+"%-_.", 20)
	jwt := "eyJ" + made(r, letters+"-_", 30) + "." + made(r, letters+"-_", 60) + "." + made(r, letters+"-_", 40)
	return map[string][2]string{
		"oauth token": {oauth, oauth[15:]}, "api key": {key, key[13:]}, "cut short": {oauth[:24],
			oauth[13:24]}, "broker's": {cp, cp[3:]},
		"hop token": {"v1." + payload + "." + mac, mac}, "bearer": {"Bearer " + opaque,
			opaque}, "authorization": {"authorization: bearer " + opaque, opaque},
		"header": {"X-Api-Key: " + opaque, opaque}, "basic": {"Authorization: Basic " + opaque,
			opaque}, "url": {"redis://user:" + password + "@h:1/0", password},
		"key of the service": {"X-Claudepool-Key: " + opaque, opaque},
		"body":               {`{"oauth_credentials":{"access_token":"` + opaque + `"}}`, opaque}, "jwt": {jwt,
			jwt[40:]}, "google": {"ya29." + payload, payload},
	}
}

type hidden struct {
	Name  string
	Bytes []byte
	Deep  map[string][]any
}

type valuer string

func (v valuer) LogValue() slog.Value { return slog.GroupValue(slog.String("in", string(v))) }

type stringer string

func (s stringer) String() string { return string(s) }

// ways are all the ways a text can get into a line.
var ways = map[string]func(l *slog.Logger, level slog.Level, text string){
	"message":  func(l *slog.Logger, level slog.Level, text string) { l.Log(context.Background(), level, "it is "+text) },
	"string":   attr(func(text string) any { return text }),
	"error":    attr(func(text string) any { return fmt.Errorf("outer: %w", errors.New(text)) }),
	"joined":   attr(func(text string) any { return errors.Join(errors.New("one"), errors.New(text)) }),
	"stringer": attr(func(text string) any { return stringer(text) }),
	"valuer":   attr(func(text string) any { return valuer(text) }),
	"group":    attr(func(text string) any { return slog.GroupValue(slog.Group("g", slog.String("a", text))) }),
	"slice":    attr(func(text string) any { return []string{"x", text} }),
	"struct":   attr(func(text string) any { return hidden{Name: text} }),
	"pointer":  attr(func(text string) any { return &hidden{Deep: map[string][]any{"k": {1, hidden{Name: text}}}} }),
	"bytes":    attr(func(text string) any { return []byte(text) }),
	"in bytes": attr(func(text string) any { return hidden{Bytes: []byte("before " + text + " after")} }),
	"raw JSON": attr(func(text string) any { b, _ := json.Marshal(text); return json.RawMessage(b) }),
	"header":   attr(func(text string) any { return http.Header{"X-Other": {text}} }),
	"quoted":   attr(func(text string) any { return fmt.Sprintf("%q", text) }),
	"new line": attr(func(text string) any { return "line\n" + text + "\nline" }),
	"tab":      attr(func(text string) any { return "\t" + strings.ReplaceAll(text, " ", "\t") }),
	"key":      func(l *slog.Logger, level slog.Level, text string) { l.Log(context.Background(), level, "x", text, 1) },
	"groupname": func(l *slog.Logger, level slog.Level, text string) {
		l.WithGroup(text).Log(context.Background(), level, "x", "a", 1)
	},
	"with": func(l *slog.Logger, level slog.Level, text string) {
		l.With("a", text).WithGroup("g").Log(context.Background(), level, "x", "b", 1)
	},
	"default": func(l *slog.Logger, _ slog.Level, text string) {
		slog.NewLogLogger(l.Handler(), slog.LevelError).Print(text)
	},
}

func attr(value func(string) any) func(*slog.Logger, slog.Level, string) {
	return func(l *slog.Logger, level slog.Level, text string) {
		l.Log(context.Background(), level, "x", "a", value(text))
	}
}

func TestNew_NoSecretPassesWhateverTheWay(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 4 {
		for kind, s := range secrets(r) {
			for way, log := range ways {
				for _, format := range []string{"json", "text"} {
					var out bytes.Buffer
					level := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}[r.IntN(4)]
					log(New(&out, slog.LevelDebug, format, "p"), level, s[0])
					line := out.String()
					require.NotContains(t, line, s[1], "%s as %s in %s, seed %d", kind, way, format, seed)
					for start := range 3 { // also not in base64, wherever in it
						part := base64.RawStdEncoding.EncodeToString([]byte(s[1])[start:])
						require.NotContains(t, line, part[:len(part)-2], "%s as %s in %s, seed %d", kind, way, format, seed)
					}
					require.NotEmpty(t, line)
					if format == "json" {
						require.True(t, json.Valid(out.Bytes()), line)
					}
				}
			}
		}
	}
}

func TestNew_HidesWhatItsKeySaysIsSecret(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		New(&out, slog.LevelInfo, format, "").WithGroup("g").Info("x", "token", "hunter2", "API_Key", errors.New("hunter2"),
			"hop", 5,
			slog.Group("h", "password", []string{"hunter2"}))
		require.NotContains(t, out.String(), "hunter2")
		require.Equal(t, 4, strings.Count(out.String(), redacted), out.String())
	}
}

func TestNew_LeavesOrdinaryLinesAsTheyAre(t *testing.T) {
	for _, text := range []string{
		"lease registered", "request_id=req_0123456789abcdef01234567", "projects/p/traces/0af7651916cd43dd8448eb211c80319c",
		"https://api.anthropic.com/v1/messages", "/workspaces/0123456789abcdef/home", "user=abc12345 idle=305.2s",
		"dial tcp 10.0.0.1:8080: connect: connection refused", "claude-haiku-4-5-20251001", "a@b.example", "2.1.330",
		"api_key: must begin with sk", strings.Repeat("VGhpcyBpcyBub3RoaW5n", 4),
	} {
		require.Equal(t, text, Redact(text))
	}
	require.Equal(t, "dial rediss://[redacted]h:6379", Redact("dial rediss://:p%40ss@h:6379"))
	require.Equal(t, "Authorization: [redacted], next", Redact("Authorization: Bearer abc, next"))
}

func TestRedact_LooksOnceMoreWhereverThereIsSomethingToTakeOut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	texts := slices.Sorted(func(yield func(string) bool) {
		for _, secret := range secrets(r) {
			if !yield(secret[0]) {
				return
			}
		}
	})
	texts = append(texts, "redis://user:secret@", "", "x", " ", "\xff")
	takenOut := 0
	for range 5000 {
		var line []byte
		for range 1 + r.IntN(5) {
			some := made(r, letters+" .:/@=-\"", r.IntN(3)) + texts[r.IntN(len(texts))] + made(r, letters, r.IntN(3))
			if r.IntN(2) == 0 {
				some = base64.StdEncoding.EncodeToString([]byte(some))
			}
			line = append(line, some[:r.IntN(len(some)+1)]...)
		}
		want := string(takeOut(slices.Clone(line)))
		require.Equal(t, want, Redact(string(line)))
		if want != string(line) {
			takenOut++
		}
	}
	require.Positive(t, takenOut)
}

func TestRedacting_TellsHowMuchItTook(t *testing.T) {
	var out bytes.Buffer
	text := "Bearer of a longer token sk-ant-api03-abc"
	n, err := redacting{&out}.Write([]byte(text))
	require.NoError(t, err)
	require.Equal(t, len(text), n)
	closed, w := io.Pipe()
	require.NoError(t, closed.Close())
	_, err = redacting{w}.Write([]byte("x"))
	require.Error(t, err)
}

// Whatever stands before and after a token, it is not in the line.
func FuzzNew_NoTokenPasses(f *testing.F) {
	f.Add("", "", uint64(1))
	f.Add("\n\"", "\\u0022", uint64(2))
	f.Add("Bearer ", "\x00", uint64(3))
	f.Add("cp-", "==", uint64(4))
	kinds := []string{"oauth token", "api key", "broker's", "hop token"}
	names := make([]string, 0, len(ways))
	for name := range ways {
		names = append(names, name)
	}
	slices.Sort(names)
	f.Fuzz(func(t *testing.T, before, after string, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := secrets(r)[kinds[r.IntN(len(kinds))]]
		for _, format := range []string{"json", "text"} {
			for _, way := range names {
				var out bytes.Buffer
				ways[way](New(&out, slog.LevelDebug, format, ""), slog.LevelInfo, before+s[0]+after)
				require.NotContains(t, out.String(), s[1], way)
			}
		}
	})
}

func BenchmarkNew_Line(b *testing.B) {
	logger := New(io.Discard, slog.LevelInfo, "json", "p")
	for b.Loop() {
		logger.Info("turn ended", "user", "abc12345", "pid", 1234, "instance", "0af7651916cd43dd", "duration", time.Second,
			"process", "reused")
	}
}
