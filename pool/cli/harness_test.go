package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"claudepool/pool/broker"
	"claudepool/pool/confine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should take an instant.
const patience = time.Minute

// errGone is why a run was given up.
var errGone = errors.New("gone")

// What a result line says beside whose it is.
const (
	success     = `"subtype":"success","is_error":false,"result":"fine"`
	interrupted = `"subtype":"error_during_execution","is_error":true`
)

// newGrants returns where grants come from. They are made outside of bubbles, in which nobody may wait for a network.
func newGrants(t testing.TB) <-chan *broker.Grant {
	nowhere := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	b := broker.New(broker.Options{Upstream: nowhere, Logger: slog.New(slog.DiscardHandler)})
	grants, over := make(chan *broker.Grant), make(chan struct{})
	var making sync.WaitGroup
	making.Go(func() {
		for {
			g, err := b.Register()
			if !assert.NoError(t, err) {
				close(grants)
				return
			}
			select {
			case grants <- g:
			case <-over:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(over)
		making.Wait()
		b.Close()
	})
	return grants
}

// fakeCLI is a CLI that is no program: the test reads what it is told, and has it say something. Its stdin takes
// nothing that isn't read.
type fakeCLI struct {
	t      testing.TB
	proc   *Process
	grants <-chan *broker.Grant // for others beside it
	stdin  *io.PipeReader
	stdout *io.PipeWriter
	told   chan gjson.Result // closed at the end of stdin

	mu      sync.Mutex // guards the following
	signals []syscall.Signal
}

// newCLI returns a CLI that doesn't read yet. A second one can be had in the same bubble.
func newCLI(t testing.TB, grants <-chan *broker.Grant, change ...func(*Limits)) *fakeCLI {
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	c := &fakeCLI{t: t, grants: grants, stdin: stdin, stdout: stdout, told: make(chan gjson.Result, 1000)}
	spec := Spec{Logger: slog.New(slog.DiscardHandler), Limits: Limits{Silence: time.Hour, InterruptGrace: time.Second,
		Turn: 1000 * time.Hour, Approval: time.Hour, Rate: 1 << 30, Burst: 1 << 30}}
	for _, f := range change {
		f(&spec.Limits)
	}
	c.proc = newProcess(c, in, out, <-grants, spec)
	t.Cleanup(func() {
		require.NoError(t, c.proc.Stop())
		<-c.proc.Exited()
	})
	return c
}

// bubble runs a test with a CLI that reads what it is told, in a time of its own.
func bubble(t *testing.T, test func(t *testing.T, c *fakeCLI), change ...func(*Limits)) {
	t.Helper()
	grants := newGrants(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCLI(t, grants, change...)
		c.listen()
		test(t, c)
	})
}

// listen has the CLI read from now on.
func (c *fakeCLI) listen() {
	go func() {
		defer close(c.told)
		for lines := bufio.NewReader(c.stdin); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			c.told <- gjson.Parse(line)
		}
	}()
}

func (c *fakeCLI) PID() int           { return 42 }
func (c *fakeCLI) SetNice(int) error  { return nil }
func (c *fakeCLI) StderrTail() string { return "its last words" }
func (c *fakeCLI) Exit() confine.Exit { return confine.Exit{Code: 3} }

func (c *fakeCLI) Signal(s syscall.Signal) error {
	c.mu.Lock()
	c.signals = append(c.signals, s)
	c.mu.Unlock()
	if s == syscall.SIGKILL {
		c.die()
	}
	return nil
}

// sent are the signals that it has got.
func (c *fakeCLI) sent() []syscall.Signal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]syscall.Signal(nil), c.signals...)
}

func (c *fakeCLI) Stop(context.Context, confine.Ladder) error {
	c.die()
	return nil
}

// die ends the CLI.
func (c *fakeCLI) die() {
	_ = c.stdin.Close()
	_ = c.stdout.Close()
}

// say has the CLI write lines, and returns when they have been read.
func (c *fakeCLI) say(lines ...string) {
	for _, line := range lines {
		_, _ = io.WriteString(c.stdout, line+"\n")
	}
}

// next is what the CLI is told next.
func (c *fakeCLI) next() gjson.Result {
	c.t.Helper()
	select {
	case line := <-c.told:
		return line
	case <-time.After(patience):
		require.FailNow(c.t, "the CLI is told nothing")
		return gjson.Result{}
	}
}

// asked is the id of the control request that comes next, which has to be of that subtype.
func (c *fakeCLI) asked(subtype string) (id string) {
	c.t.Helper()
	line := c.next()
	require.Equal(c.t, "control_request", line.Get("type").Str)
	require.Equal(c.t, subtype, line.Get("request.subtype").Str)
	return line.Get("request_id").Str
}

// grant answers a control request; response is JSON.
func (c *fakeCLI) grant(id, response string) {
	c.respond(`{"subtype":"success","request_id":%q,"response":%s}`, id, response)
}

// refuse answers a control request with an error.
func (c *fakeCLI) refuse(id, why string) {
	c.respond(`{"subtype":"error","request_id":%q,"error":"%s"}`, id, why)
}

func (c *fakeCLI) respond(format string, a ...any) {
	c.say(`{"type":"control_response","response":` + fmt.Sprintf(format, a...) + "}")
}

// idle requires that nothing moves and that the CLI is told nothing.
func (c *fakeCLI) idle() {
	c.t.Helper()
	synctest.Wait()
	require.Empty(c.t, c.told)
}

// call begins an API call of the process, which ends with the test at the latest.
func (c *fakeCLI) call() (end func()) {
	body, rest := io.Pipe()
	r := httptest.NewRequest(http.MethodPost, "/v1/messages", body)
	r.Header.Set("Authorization", "Bearer "+c.proc.Secret())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.proc.grant.ServeHTTP(httptest.NewRecorder(), r)
	}()
	end = func() { _ = rest.Close(); <-done }
	c.t.Cleanup(end)
	synctest.Wait()
	return end
}

// run is a call of Run.
type run struct {
	c    *fakeCLI
	uuid string
	over chan struct{} // closed when Run has returned

	lines     []string   // as handed over
	ends      []*Outcome // one for each batch
	lastBatch []string
	outcome   Outcome // what Run has returned, as err
	err       error
}

// begin calls Run and returns when the CLI has been told the message. also is called after each batch was noted.
func (c *fakeCLI) begin(ctx context.Context, also Emit) *run {
	c.t.Helper()
	r := c.beginUnread(ctx, `"hello"`, func() {}, also)
	message := c.next()
	require.Equal(c.t, "hello", message.Get("message.content").Str)
	r.uuid = message.Get("uuid").Str
	return r
}

func (c *fakeCLI) beginUnread(ctx context.Context, message string, sent func(), also Emit) *run {
	r := &run{c: c, over: make(chan struct{})}
	emit := func(ctx context.Context, lines [][]byte, end *Outcome) error {
		r.lastBatch = nil
		for _, line := range lines {
			r.lastBatch = append(r.lastBatch, string(line))
		}
		r.lines = append(r.lines, r.lastBatch...)
		r.ends = append(r.ends, end)
		if also != nil {
			return also(ctx, lines, end)
		}
		return nil
	}
	go func() {
		defer close(r.over)
		r.outcome, r.err = c.proc.Run(ctx, json.RawMessage(message), sent, emit)
	}()
	return r
}

func (r *run) lifecycle(state string) {
	r.c.say(fmt.Sprintf(`{"type":"command_lifecycle","command_uuid":%q,"state":%q}`, r.uuid, state))
}

const initLine = `{"type":"system","subtype":"init"}`

// start has the CLI begin with the message.
func (r *run) start() {
	r.lifecycle("queued")
	r.lifecycle("started")
	r.c.say(initLine)
}

func (r *run) resultLine(says string) string {
	return fmt.Sprintf(`{"type":"result","user_message_uuid":%q,%s}`, r.uuid, says)
}

func (r *run) result(says string) { r.c.say(r.resultLine(says)) }

// end is Run's error.
func (r *run) end() error {
	r.c.t.Helper()
	select {
	case <-r.over:
	case <-time.After(patience):
		require.FailNow(r.c.t, "the run doesn't end")
	}
	return r.err
}

// runs reports whether Run has not returned, when nothing moves any more.
func (r *run) runs() bool {
	synctest.Wait()
	select {
	case <-r.over:
		return false
	default:
		return true
	}
}

// answer has a run that goes well from its begin to its end.
func (c *fakeCLI) answer() {
	c.t.Helper()
	r := c.begin(c.t.Context(), nil)
	r.start()
	r.result(success)
	require.NoError(c.t, r.end())
	require.True(c.t, r.outcome.Good())
	require.Equal(c.t, []string{initLine, r.resultLine(success)}, r.lines)
	r.lifecycle("completed")
}
