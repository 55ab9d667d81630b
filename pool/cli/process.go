// Package cli is one running claude CLI: started, bound to a credential, fitted to settings, given one message at a
// time, rewound, frozen, stopped. It knows no users and no conversations; whoever has a Process decides what becomes of
// it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/confine"
	"claudepool/pool/workspace"
)

var (
	// ErrDied says that a process ended by itself, or was killed by somebody else.
	ErrDied = errors.New("cli: the process ended")
	// ErrSilence is the cause of a run's end when neither the API nor the CLI has said anything for Limits.Silence.
	ErrSilence = errors.New("cli: silence")
	// ErrTooLong is the cause of a run's end after Limits.Turn.
	ErrTooLong = errors.New("cli: the run took too long")
)

// Limits are what one run may take. All have to be positive.
type Limits struct {
	Silence        time.Duration // without a word of a CLI that waits for the API
	InterruptGrace time.Duration // for an interrupted run to end before its process is killed
	Turn           time.Duration // a run, but for the time that it waits for its host
	Approval       time.Duration // the host, for an answer to what the CLI asks
	// Rate is how many bytes a second a run may hand over after its first Burst ones, so that a process that floods leaves
	// the machine to others: it waits, as for a client that reads slowly.
	Rate  float64
	Burst int
}

// Commands are how long what a model runs may take before it is ended and the model told: one that asks for no time of
// its own, and the longest that one may ask for.
type Commands struct{ Usual, Longest time.Duration }

// Spec says what to start.
type Spec struct {
	Bin        string            // path of the CLI
	Folder     *workspace.Folder // where it keeps its files
	Options    claude.Options
	MCPTimeout time.Duration // how long an MCP server may take to answer
	Commands   Commands
	Limits     Limits
	Logger     *slog.Logger
}

// child is what a Process needs of a confine.Child. Tests have children that are no programs.
type child interface {
	PID() int
	Signal(syscall.Signal) error
	SetNice(int) error
	Stop(context.Context, confine.Ladder) error
	StderrTail() string
	Exit() confine.Exit
}

// Process is one running CLI. It runs at most one message at a time. Run, Rewind, Forget, Fit, Satisfies, NeedsRestart,
// Initialize, Bind, SetInnerID, WarmUp, AskAside and StartOver are for one goroutine at a time, whoever has the
// process; the other methods may be called concurrently with them.
type Process struct {
	child   child
	stdin   io.Writer
	grant   *broker.Grant
	limits  Limits
	log     *slog.Logger
	resumed bool

	inForce      Settings                       // owned by whoever has the process
	connected    atomic.Bool                    // to MCP servers
	recycle      atomic.Bool                    // not to be used again
	modeChanged  atomic.Bool                    // an answer has set another permission mode than inForce has
	wroteGarbage atomic.Bool                    // it wrote what is no JSON
	aborted      atomic.Pointer[error]          // why its run has to end at once
	inner        atomic.Pointer[claude.InnerID] // nil: the CLI has its session's own id
	lastLine     atomic.Int64                   // when the CLI last wrote something, in Unix nanoseconds
	refusing     atomic.Int64                   // bytes of answers to what the CLI has asked, until they are written

	asks  asks
	tools toolServer

	write   sync.Mutex // one line at a time on stdin
	freezer freezer

	mu       sync.Mutex // guards the following
	turn     *turn      // the one that runs, or the last one where it may have to be rewound
	controls map[string]chan claude.Line
	nextID   int
	ended    bool
	exited   chan struct{} // closed when stdout has ended: nothing more will be read
}

// Start starts a CLI that belongs to nobody: its API calls fail until it is bound. It returns before the CLI is ready;
// Initialize waits for that. Nobody else may stop the child.
func Start(ctx context.Context, launcher *confine.Launcher, b *broker.Broker, spec Spec) (*Process, error) {
	grant, err := b.Register()
	if err != nil {
		return nil, fmt.Errorf("cli: start: %w", err)
	}
	env := claude.Environment{Home: spec.Folder.Home, Temp: spec.Folder.Temp, BaseURL: grant.URL(), Secret: grant.Secret(),
		MCPTimeout: spec.MCPTimeout, CommandTimeout: spec.Commands.Usual, LongestCommand: spec.Commands.Longest,
		Background: spec.Options.Background}
	c, err := launcher.Start(ctx, confine.Spec{Path: spec.Bin, Args: claude.Args(spec.Options), Env: env.Vars(),
		Dir: spec.Folder.Cwd, Workspace: spec.Folder.Root, Connect: []uint16{grant.Port()}})
	if err != nil {
		grant.Revoke()
		return nil, fmt.Errorf("cli: start: %w", err)
	}
	return newProcess(c, c.Stdin, c.Stdout, grant, spec), nil
}

func newProcess(c child, stdin io.Writer, stdout io.ReadCloser, grant *broker.Grant, spec Spec) *Process {
	p := &Process{child: c, stdin: stdin, grant: grant, limits: spec.Limits, log: spec.Logger,
		resumed: spec.Options.Resume || spec.Options.Gate != "", inForce: settingsOf(spec.Options),
		controls: make(map[string]chan claude.Line), exited: make(chan struct{}), asks: asks{limit: spec.Limits.Approval}}
	p.noteActivity()
	go p.read(stdout)
	return p
}

// PID is the process id. It stays the process's until Stop has returned.
func (p *Process) PID() int { return p.child.PID() }

// Resumed reports whether the process was started with a transcript to go on from.
func (p *Process) Resumed() bool { return p.resumed }

// Exit is how the process ended, for after its end.
func (p *Process) Exit() confine.Exit { return p.child.Exit() }

// StderrTail is the end of what it wrote to stderr.
func (p *Process) StderrTail() string { return p.child.StderrTail() }

// Secret is what the process knows itself by at the broker; no credential.
func (p *Process) Secret() string { return p.grant.Secret() }

// BrokerURL is where the broker serves this process alone.
func (p *Process) BrokerURL() string { return p.grant.URL() }

// Calls is how many API calls of the process are under way.
func (p *Process) Calls() int { return p.grant.Open() }

// Passed is how many API calls of the process were passed on.
func (p *Process) Passed() int64 { return p.grant.Passed() }

// SetNice sets the priority of the process and of what it starts from then on.
func (p *Process) SetNice(nice int) error { return p.child.SetNice(nice) }

// Signal sends a signal to the process's group: to it, and to what it started that has no group of its own.
func (p *Process) Signal(s syscall.Signal) error { return p.child.Signal(s) }

// Bind puts a credential on the API calls of a process that is nobody's. broker.ErrBusy says that a call is under way.
func (p *Process) Bind(c broker.Credential) error {
	err := p.grant.Bind(c)
	if err == nil && !p.Alive() {
		return ErrDied
	}
	return err
}

// Rebind puts another credential in the place of the one it is bound to.
func (p *Process) Rebind(from, to broker.Credential) error { return p.grant.Rebind(from, to) }

// SetInnerID makes the process one of a session of another id, in all that it writes and asks from then on.
func (p *Process) SetInnerID(inner claude.InnerID) {
	p.grant.Rewrite(inner)
	p.inner.Store(&inner)
}

// Charge has the process's calls that begin from now on be told to the bill.
func (p *Process) Charge(b broker.Bill) { p.grant.Charge(b) }

// Exited is closed when nothing more will be read from the process.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Alive reports whether the process can be talked to.
func (p *Process) Alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Recycle says that the process is not to be used again after its run.
func (p *Process) Recycle() { p.recycle.Store(true) }

// PermissionChanged says that an answer sets the permission mode: the next Fit sets it again.
func (p *Process) PermissionChanged() { p.modeChanged.Store(true) }

// Abort ends the run for the given reason, soon, and with it the process's use. The first reason counts.
func (p *Process) Abort(why error) { p.aborted.CompareAndSwap(nil, &why) }

// Unusable reports whether the process is not to be used again.
func (p *Process) Unusable() bool { return p.recycle.Load() || p.aborted.Load() != nil }

// Kill kills the process at once and returns when nothing more will be read from it. Stop still has to follow.
func (p *Process) Kill() {
	p.kill()
	<-p.exited
}

// Quit ends the process when it has written what it has to, or kills it after Limits.InterruptGrace. It returns when
// nothing more will be read from it. Stop still has to follow.
func (p *Process) Quit() {
	_ = p.child.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(p.limits.InterruptGrace):
		p.Kill()
	}
}

func (p *Process) kill() { _ = p.child.Signal(syscall.SIGKILL) }

// Stop ends the process and everything it started: close stdin, SIGTERM, SIGKILL. It returns when nothing of it is
// left; its error says that something is, and then it may be called again.
func (p *Process) Stop() error {
	p.Thaw()
	err := p.child.Stop(context.Background(), confine.Ladder{CloseGrace: 2 * time.Second, TermGrace: 2 * time.Second})
	p.grant.Revoke()
	return err
}
