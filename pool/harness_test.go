package pool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/hop"
	"claudepool/infra/testkit/need"
	"claudepool/pool"
	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/confine"
	"claudepool/pool/poold"
	"claudepool/pool/pooltest"
	"claudepool/pool/server"
	"claudepool/pool/workspace"
)

const hopKey = "0123456789abcdef0123456789abcdef"

// owner is an Ownership that lets everybody in until it is told to refuse, and remembers whom it let in and go.
type owner struct {
	mu       sync.Mutex
	refusal  error
	admitted []string
	released []string
	proven   map[string]bool
	homes    map[string]bool // of those released
	during   func()          // nil: nothing
	moved    map[string]context.CancelCauseFunc
	held     map[string]context.Context
	away     bool // nobody can be asked who is whose
}

func (o *owner) Held(user string) context.Context {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held == nil {
		o.held, o.moved = make(map[string]context.Context), make(map[string]context.CancelCauseFunc)
	}
	if o.held[user] == nil {
		o.held[user], o.moved[user] = context.WithCancelCause(context.Background())
	}
	return o.held[user]
}

// move says of a user who is held that another instance has it by now.
func (o *owner) move(user string) {
	o.Held(user)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refusal = errNotOwner
	o.moved[user](errNotOwner)
}

// cutOff says whether nobody can be asked who is whose.
func (o *owner) cutOff(away bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = away
}

func (o *owner) Confirm(context.Context, string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away {
		return errors.New("Redis is away")
	}
	return o.refusal
}

// onAdmit has f called when somebody asks to be let in.
func (o *owner) onAdmit(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.during = f
}

func (o *owner) Admit(_ context.Context, user string, _ bool) error {
	o.mu.Lock()
	during := o.during
	o.mu.Unlock()
	if during != nil {
		during()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refusal == nil {
		o.admitted = append(o.admitted, user)
	}
	return o.refusal
}

func (o *owner) refuse(why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refusal = why
}

func (o *owner) admittedUsers() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.admitted...)
}

func (o *owner) Release(_ context.Context, user string, keepHome bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.released = append(o.released, user)
	if o.homes == nil {
		o.homes = make(map[string]bool)
	}
	o.homes[user] = keepHome
	if o.held[user] != nil {
		o.moved[user](errNotOwner)
		delete(o.held, user)
	}
	return nil
}

// hasHome reports whether the user's next claim is to prefer this instance.
func (o *owner) hasHome(user string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.homes[user]
}

func (o *owner) Proven(user string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.proven[user]
}

func (o *owner) Prove(_ context.Context, user string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.proven == nil {
		o.proven = make(map[string]bool)
	}
	o.proven[user] = true
	return nil
}

func (o *owner) releasedUsers() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.released...)
}

// service is a pool with its server, the real CLI and a stand-in for the API.
type service struct {
	t     testing.TB
	api   *pooltest.API
	pool  *pool.Pool
	owner *owner
	url   string
	keys  hop.Keys
	logs  *logBuffer
	root  string
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newService starts a service with the real CLI; change may alter its options. All of it is gone when the test ends.
func newService(t testing.TB, change func(*pool.Options)) *service {
	t.Helper()
	return newServiceWith(t, nil, change)
}

// newServiceWith starts a service whose processes are confined, unless confinement is nil.
func newServiceWith(t testing.TB, confinement *confine.Confinement, change func(*pool.Options)) *service {
	t.Helper()
	cli, err := pooltest.RealCLI()
	return startService(t, need.Part(t, cli, err), confinement, change)
}

// scriptedCLI is asked for by most tests, and to see that it is up to date takes a while too.
var scriptedCLI = sync.OnceValues(pooltest.ScriptedCLI)

// newScriptedService starts a service with the scripted CLI.
func newScriptedService(t testing.TB, change func(*pool.Options)) *service {
	t.Helper()
	cli, err := scriptedCLI()
	require.NoError(t, err)
	return startService(t, cli, nil, change)
}

func startService(t testing.TB, cli string, confinement *confine.Confinement, change func(*pool.Options)) *service {
	t.Helper()
	var err error
	s := &service{t: t, owner: &owner{}, logs: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(s.logs, nil))
	s.api, err = pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(s.api.Close)
	upstream, err := url.Parse(s.api.URL())
	require.NoError(t, err)
	b := broker.New(broker.Options{Upstream: upstream, Logger: log})
	t.Cleanup(b.Close)
	parent := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(parent), 0o711)) // made for this uid alone
	folder, err := confine.LockFolder(filepath.Join(parent, "workspaces"), log)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, folder.Close()) })
	if confinement != nil {
		confinement.Mount, err = folder.MountPoint()
		require.NoError(t, err)
	}
	launcher, err := confine.New(confine.Options{Root: folder.Path(), Logger: log, Confinement: confinement})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, launcher.Close()) })
	s.root = folder.Path()
	opts := pool.Options{
		Logger: log, Launcher: launcher, Broker: b, ClaudeBin: cli, Workspaces: folder.Path(),
		MaxProcesses: 8, MaxProcessesPerUser: 4, MaxConversations: 100, QueueLimit: 32, MaxProcessRSS: 4 << 30,
		Quota:       workspace.Space{Bytes: 1 << 30, Files: 100_000},
		IdleTimeout: time.Minute, FreezeAfter: time.Minute, CleanupInterval: time.Minute, WorkspaceTTL: time.Hour,
		TurnTimeout: time.Minute, ApprovalTimeout: time.Minute, Approvals: true,
		QueueTimeout: time.Minute, SilenceTimeout: time.Minute, SpawnTimeout: time.Minute, PermissionMode: "default",
	}
	opts.ForTests()
	if change != nil {
		change(&opts)
	}
	s.pool = pool.New(opts, s.owner)
	t.Cleanup(s.pool.Close)
	s.keys, err = hop.ParseKeys(hopKey)
	require.NoError(t, err)
	handler := server.New(poold.Backend(s.pool), server.Options{Logger: log, Instance: "i1", Keys: s.keys,
		MaxBodyBytes: 32 << 20, LogBytes: 64 << 20, NotOwner: errNotOwner, NotNow: []error{errNotNow, pool.ErrDraining}})
	listener := httptest.NewServer(handler)
	t.Cleanup(handler.Close)
	t.Cleanup(listener.Close)
	s.url = listener.URL
	return s
}

var (
	errNotOwner = fmt.Errorf("not the owner")
	errNotNow   = fmt.Errorf("not now")
)

// reply is one answered request.
type reply struct {
	status  int
	header  http.Header
	pid     string
	process string
	events  []gjson.Result // without [DONE]
	done    bool
	body    string
}

func (r reply) of(kind string) []gjson.Result {
	var all []gjson.Result
	for _, e := range r.events {
		if e.Get("type").Str == kind {
			all = append(all, e)
		}
	}
	return all
}

// text is the one result's text.
func (r reply) text(t testing.TB) string {
	t.Helper()
	require.Equal(t, http.StatusOK, r.status, r.body)
	require.Len(t, r.of("result"), 1, r.body)
	require.True(t, r.done, "the stream must end with [DONE]")
	return r.of("result")[0].Get("result").Str
}

type fields map[string]any

func token(user string) string { return "sk-ant-oat01-token-of-" + user }

// start sends a request of the user, who says text; more adds to or replaces the body's fields, and removes those that
// are nil.
func (s *service) start(ctx context.Context, user, text string, more fields) (*http.Response, error) {
	return s.startWith(ctx, http.DefaultClient, user, text, more)
}

func (s *service) startWith(ctx context.Context, client *http.Client, user, text string, more fields) (*http.Response,
	error) {
	body := fields{"oauth_credentials": fields{"access_token": token(user)}, "model": "haiku",
		"messages": []fields{{"role": "user", "content": text}}}
	maps.Copy(body, more)
	maps.DeleteFunc(body, func(_ string, v any) bool { return v == nil })
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return s.send(ctx, client, api.PathMessages, raw)
}

// send posts a body as a front does.
func (s *service) send(ctx context.Context, client *http.Client, path string, raw []byte) (*http.Response, error) {
	request, err := api.DecodeCredential(raw)
	id := ""
	if err == nil {
		id = request.UserID()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	r.Header.Set(api.HeaderHop, s.keys.Sign(hop.Claims{Instance: "i1", User: id, RequestID: uuid.NewString(), Path: path},
		time.Now()))
	return client.Do(r)
}

func read(response *http.Response) reply {
	defer response.Body.Close()
	raw, _ := io.ReadAll(response.Body)
	r := reply{status: response.StatusCode, header: response.Header, pid: response.Header.Get(api.HeaderPID),
		process: response.Header.Get(api.HeaderProcess), body: string(raw)}
	if _, receipt, ok := strings.Cut(r.body, ": receipt "); ok { // the headers may have gone before there was a process
		r.pid, r.process = gjson.Get(receipt, "pid").Raw, gjson.Get(receipt, "process").Str
	}
	for _, line := range strings.Split(string(raw), "\n\n") {
		for strings.HasPrefix(line, "id: ") || strings.HasPrefix(line, ":") {
			_, line, _ = strings.Cut(line, "\n")
		}
		data, ok := strings.CutPrefix(line, "data: ")
		switch {
		case !ok:
		case data == "[DONE]":
			r.done = true
		default:
			r.events = append(r.events, gjson.Parse(data))
		}
	}
	return r
}

func (s *service) ask(user, text string, more fields) reply {
	s.t.Helper()
	response, err := s.start(s.t.Context(), user, text, more)
	require.NoError(s.t, err)
	return read(response)
}

// occupy begins a turn that doesn't end, and returns what hangs up on it.
func (s *service) occupy(user string, more fields) (hangUp func()) {
	s.t.Helper()
	before := len(s.api.Calls())
	ctx, cancel := context.WithCancel(s.t.Context())
	response, err := s.start(ctx, user, "busy [[silence]]", more)
	require.NoError(s.t, err)
	s.awaitCall(before)
	return func() {
		cancel()
		_ = response.Body.Close()
	}
}

// awaitCall waits until the API has been asked once more than before.
func (s *service) awaitCall(before int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return len(s.api.Calls()) > before }, time.Minute, 5*time.Millisecond)
}

// lastCall is what the API was asked last.
func (s *service) lastCall() pooltest.Call {
	calls := s.api.Calls()
	require.NotEmpty(s.t, calls)
	return calls[len(calls)-1]
}

// walkFiles reads every file below root.
func walkFiles(root string, look func(path string, content []byte)) error {
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the CLI's files come and go
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		look(path, content)
		return err
	})
}
