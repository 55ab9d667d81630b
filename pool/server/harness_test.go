package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/pool/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errNotOwner = errors.New("not the owner")
	errMoved    = errors.New("moved")
	errDraining = errors.New("draining")
	errSecret   = errors.New("secret: /proc/7")
)

// script is what a turn does when it is run.
type script func(ctx context.Context, t *turn) error

// turn is a server.Turn that does what its script says.
type turn struct {
	script   script
	sent     func()
	emit     func(context.Context, [][]byte) error
	receipt  api.Receipt
	stopped  chan struct{}
	released chan struct{}

	mu          sync.Mutex // guards the following
	away        []bool
	interrupted int
	noSteering  bool
	steered     []string
}

func newTurn(script script) *turn {
	return &turn{script: script, receipt: api.Receipt{Process: "reused", PID: 7},
		stopped: make(chan struct{}), released: make(chan struct{})}
}

func (t *turn) Run(ctx context.Context, sent func(), emit func(context.Context, [][]byte) error) error {
	ctx, cancel := context.WithCancel(ctx) // as a process has it: what emit gets ends with the run
	defer cancel()
	t.sent, t.emit = sent, emit
	defer func() { t.sent, t.emit = nil, nil }() // they keep what is behind them
	return t.script(ctx, t)
}

func (t *turn) Receipt() api.Receipt { return t.receipt }
func (t *turn) Release()             { close(t.released) }
func (t *turn) SetAway(isAway bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.away = append(t.away, isAway)
}

// toldAway is what it was told of its readers.
func (t *turn) toldAway() []bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.away)
}

// Interrupt has a turn that hangs end as one does that is interrupted.
func (t *turn) Interrupt(context.Context) error {
	t.interrupted++
	t.stop()
	return nil
}

func (t *turn) Steer(uuid string, content json.RawMessage, priority string) error {
	if t.noSteering {
		return api.ErrNoTurn
	}
	t.steered = append(t.steered, uuid+" "+string(content)+" "+priority)
	return nil
}

func (t *turn) stop() { close(t.stopped) }

func (t *turn) isReleased() bool {
	select {
	case <-t.released:
		return true
	default:
		return false
	}
}

// say hands over a batch of lines.
func (t *turn) say(ctx context.Context, lines ...string) error {
	var batch [][]byte
	for _, line := range lines {
		batch = append(batch, []byte(line))
	}
	return t.emit(ctx, batch)
}

// says is a turn that answers with these lines, a second each.
func says(lines ...string) script {
	return func(ctx context.Context, t *turn) error {
		t.sent()
		for _, line := range lines {
			time.Sleep(time.Second)
			if err := t.say(ctx, line); err != nil {
				return err
			}
		}
		return nil
	}
}

// hangs is a turn that goes on until its context ends or it is stopped.
func hangs(ctx context.Context, t *turn) error {
	t.sent()
	select {
	case <-ctx.Done():
	case <-t.stopped:
	}
	return context.Cause(ctx)
}

// fails is a turn of which nothing comes.
func fails(err error) script { return func(context.Context, *turn) error { return err } }

// house is a server with a backend. Its turns are the next ones in line; where there is none, the backend has an answer
// of its own.
type house struct {
	t       testing.TB
	server  *server.Server
	keys    hop.Keys
	logs    bytes.Buffer // to be read when nothing is under way
	deletes func(context.Context, *api.Request) (int, error)
	listed  []api.Conversation
	passes  func(context.Context, api.Call) ([]byte, error)
	answers func(*api.Answer) error

	mu       sync.Mutex // guards the following
	waits    func(context.Context) error
	turns    []server.Turn
	acquired []*api.Request
	outages  []bool
	held     int                // users who are held without a turn
	refuses  error              // why nobody is
	leaving  context.CancelFunc // of who attends
}

func newHouse(t testing.TB, tuning server.Tuning) *house { return newHouseWith(t, tuning, nil) }

// newHouseWith is newHouse where keys can be handed over.
func newHouseWith(t testing.TB, tuning server.Tuning, handover server.Handover) *house {
	keys, err := hop.ParseKeys(hop.NewKey())
	require.NoError(t, err)
	h := &house{t: t, keys: keys}
	opts := server.Options{Logger: slog.New(slog.NewTextHandler(&h.logs, nil)), Instance: "i1", Keys: keys,
		MaxBodyBytes: 1000, LogBytes: 1 << 20, NotOwner: errNotOwner, NotNow: []error{errMoved, errDraining},
		Handover: handover}
	server.Tune(&opts, tuning)
	h.server = server.New(h, opts)
	return h
}

// inBubble runs a test with a server in fake time.
func inBubble(t *testing.T, tuning server.Tuning, test func(*testing.T, *house)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, tuning)
		test(t, h)
		h.server.Close()
	})
}

// next has the backend run a script for the next request.
func (h *house) next(s script) *turn {
	t := newTurn(s)
	h.nextTurn(t)
	return t
}

func (h *house) nextTurn(t server.Turn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turns = append(h.turns, t)
}

// meanwhile has requests wait for their turns, or fail to get one.
func (h *house) meanwhile(waits func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waits = waits
}

func (h *house) Acquire(ctx context.Context, req *api.Request, outage bool) (server.Turn, error) {
	h.mu.Lock()
	h.acquired, h.outages = append(h.acquired, req), append(h.outages, outage)
	waits := h.waits
	h.mu.Unlock()
	if waits != nil {
		if err := waits(ctx); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.turns) == 0 {
		return newTurn(says("hello")), nil
	}
	t := h.turns[0]
	h.turns = h.turns[1:]
	return t, nil
}

func (h *house) List(context.Context, *api.Request, bool) ([]api.Conversation, error) {
	return h.listed, nil
}

func (h *house) Said(_ context.Context, _ *api.Request, _ bool, before, _ int) (api.ConversationMessages, error) {
	return api.ConversationMessages{Messages: []api.Message{}, Before: before}, nil
}

func (h *house) Fork(context.Context, *api.Request, bool, string) error { return nil }

func (h *house) Hold(ctx context.Context, _ *api.Request, _ bool) (func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuses != nil {
		return nil, h.refuses
	}
	h.held++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.held--
	}, nil
}

func (h *house) Attend(ctx context.Context, req *api.Request, outage bool) (context.Context, func(), error) {
	letGo, err := h.Hold(ctx, req, outage)
	if err != nil {
		return nil, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	leaving, leave := context.WithCancel(context.WithoutCancel(ctx))
	h.leaving = leave
	return leaving, func() {
		leave()
		letGo()
	}, nil
}

func (h *house) Allowed(req *api.Request) error {
	if req.PermissionMode == "bypassPermissions" {
		return api.Invalid("above what is allowed")
	}
	return nil
}

func (h *house) Approves() bool { return true }

func (h *house) Delete(ctx context.Context, req *api.Request, outage bool) (int, error) {
	h.mu.Lock()
	h.acquired, h.outages = append(h.acquired, req), append(h.outages, outage)
	h.mu.Unlock()
	return h.deletes(ctx, req)
}

func (h *house) Answer(_ context.Context, a *api.Answer, _ bool) error { return h.answers(a) }

func (h *house) Pass(ctx context.Context, call api.Call) ([]byte, error) { return h.passes(ctx, call) }

func (h *house) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.acquired)
}

// ask is a request as a front sends it. What isn't said is as in one that is served.
type ask struct {
	path, user string
	more       string // of the body: fields, with a comma before
	body       string
	lastEvent  string
	key        string // idempotency key
	original   string // digest of what the front has translated
	claims     func(*hop.Claims)
	hop        string // the token; empty: one is made
	stalled    bool   // the client doesn't read
}

const finish = `,"on_disconnect":"finish"`

func token(user string) string { return "sk-ant-oat01-token-of-" + user }

func userID(user string) string {
	return (&api.Request{OAuth: &api.OAuthCredentials{AccessToken: token(user)}}).UserID()
}

func (a *ask) complete() {
	if a.path == "" {
		a.path = api.PathMessages
	}
	if a.user == "" {
		a.user = "ada"
	}
	if a.body == "" {
		a.body = fmt.Sprintf(`{"oauth_credentials":{"access_token":%q},"messages":[{"role":"user","content":"hi"}]%s}`,
			token(a.user), a.more)
	}
}

// sign makes the token of a request's hop.
func (h *house) sign(a ask) string {
	a.complete()
	claims := hop.Claims{Instance: "i1", User: userID(a.user), RequestID: uuid.NewString(), Path: a.path}
	if a.claims != nil {
		a.claims(&claims)
	}
	return h.keys.Sign(claims, time.Now())
}

// request is one as a front sends it.
func (h *house) request(ctx context.Context, a ask) *http.Request {
	a.complete()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://i1"+a.path, strings.NewReader(a.body))
	require.NoError(h.t, err)
	r.Header.Set(api.HeaderHop, a.hop)
	if a.hop == "" {
		r.Header.Set(api.HeaderHop, h.sign(a))
	}
	r.Header.Set(api.HeaderLastEvent, a.lastEvent)
	r.Header.Set(api.HeaderIdempotencyKey, a.key)
	r.Header.Set(api.HeaderOriginal, a.original)
	r.Header.Set(api.HeaderRequestID, "req_1")
	return r
}

// send begins a request.
func (h *house) send(a ask) *client {
	c := newClient(h.t)
	c.stuck = a.stalled
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(h.t.Context())
	r := h.request(ctx, a)
	go func() {
		defer c.finish()
		h.server.ServeHTTP(c, r)
	}()
	return c
}

// resume takes a turn of ada's up after an event.
func (h *house) resume(turn string, after int) *client {
	return h.send(ask{path: api.PathResume, lastEvent: fmt.Sprintf("%s.%d", turn, after)})
}
