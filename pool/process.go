package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/confine"
)

var (
	// errDied says that a process ended by itself, or was killed by somebody else.
	errDied = errors.New("pool: the process ended")
	// errRefused says that the CLI answered a control request with an error.
	errRefused = errors.New("pool: refused by the CLI")
)

// process is one running CLI. It runs at most one turn at a time.
type process struct {
	child   *confine.Child
	grant   *broker.Grant
	started time.Time
	resumed bool
	log     *slog.Logger

	inForce  settings              // owned by whoever holds the conversation's slot
	turns    int                   // likewise: turns begun
	frozen   bool                  // likewise: stopped by SIGSTOP
	rested   bool                  // guarded by Pool.mu: freezing was tried since its last use
	recycle  atomic.Bool           // more memory than a process should have
	doomed   atomic.Pointer[error] // why its turn has to end at once
	lastLine atomic.Int64          // when the CLI last wrote something, in Unix nanoseconds

	write sync.Mutex // one line at a time on stdin

	mu       sync.Mutex // guards the following
	turn     *turn
	controls map[string]chan claude.Line
	nextID   int
	gone     bool
	exited   chan struct{} // closed when stdout has ended: nothing more will be read
}

// startProcess starts a CLI for the held conversation and returns when it has answered its first control request.
func (p *Pool) startProcess(ctx context.Context, c *conversation, credential broker.Credential) (*process, error) {
	opts, err := p.prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	over, err := p.gate.pass(ctx)
	if err != nil {
		return nil, err
	}
	defer over()
	proc, err := p.launch(ctx, c.dir, opts)
	if err != nil {
		return nil, err
	}
	if err := proc.grant.Bind(credential); err != nil {
		return nil, errors.Join(err, proc.stop())
	}
	if err := proc.initialize(ctx, c.settings.system); err != nil {
		return nil, errors.Join(err, proc.stop())
	}
	return proc, nil
}

// launch starts a CLI that belongs to nobody.
func (p *Pool) launch(ctx context.Context, w *workspace, opts claude.Options) (*process, error) {
	grant := p.opts.Broker.Register()
	env := claude.Environment{Home: w.home, Temp: w.temp, BaseURL: p.opts.Broker.URL(), Secret: grant.Secret(),
		MCPTimeout: p.opts.SpawnTimeout / 3} // or a server that is silent would cost the process
	child, err := p.opts.Launcher.Start(ctx, confine.Spec{
		Path: p.opts.ClaudeBin, Args: claude.Args(opts), Env: env.Vars(), Dir: w.cwd, Workspace: w.root,
	})
	if err != nil {
		grant.Revoke()
		return nil, fmt.Errorf("pool: start: %w", err)
	}
	proc := &process{
		child: child, grant: grant, started: time.Now(), resumed: opts.Resume, log: p.opts.Logger,
		inForce:  settings{model: opts.Model, fallback: opts.FallbackModel, permission: opts.PermissionMode},
		controls: make(map[string]chan claude.Line),
		exited:   make(chan struct{}),
	}
	proc.lastLine.Store(time.Now().UnixNano())
	go proc.read(child.Stdout)
	return proc, nil
}

// initialize is the handshake. The system prompt counts on a process's first one only, and only before its first turn.
func (p *process) initialize(ctx context.Context, system string) error {
	if _, err := p.control(ctx, claude.Initialize{AppendSystemPrompt: system}); err != nil {
		return fmt.Errorf("%w (stderr: %q)", err, p.child.StderrTail())
	}
	p.inForce.system = system
	return nil
}

// stop ends the process and everything it started, and returns when nothing of it is left.
func (p *process) stop() error {
	p.thaw()
	err := p.child.Stop(context.Background(), confine.Ladder{CloseGrace: 2 * time.Second, TermGrace: 2 * time.Second})
	p.grant.Revoke()
	return err
}

// doom ends the process's turn, and with it the process.
func (p *process) doom(why error) { p.doomed.CompareAndSwap(nil, &why) }

// spent reports whether the process is not to be used for another turn.
func (p *process) spent() bool { return p.recycle.Load() || p.doomed.Load() != nil }

// kill ends the process at once. stop still has to follow.
func (p *process) kill() { _ = p.child.Signal(syscall.SIGKILL) }

// alive reports whether the process can be talked to.
func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// send writes one line to the CLI.
func (p *process) send(line []byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	if _, err := p.child.Stdin.Write(line); err != nil {
		return fmt.Errorf("%w: %w", errDied, err)
	}
	return nil
}

// control makes a control request and waits for its answer.
func (p *process) control(ctx context.Context, request any) (claude.Line, error) {
	reply := make(chan claude.Line, 1)
	p.mu.Lock()
	p.nextID++
	id := "cp-" + strconv.Itoa(p.nextID)
	p.controls[id] = reply
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.controls, id)
		p.mu.Unlock()
	}()
	failed := make(chan error, 1)
	go func() { // a CLI that doesn't read must not hold up who has a deadline; the end of its stdin ends this
		if err := p.send(claude.ControlRequest(id, request)); err != nil {
			failed <- err
		}
	}()
	select {
	case line := <-reply:
		if line.Subtype != "success" {
			return line, fmt.Errorf("%w: %s", errRefused, line.Error)
		}
		return line, nil
	case err := <-failed:
		return claude.Line{}, err
	case <-p.exited:
		return claude.Line{}, errDied
	case <-ctx.Done():
		return claude.Line{}, context.Cause(ctx)
	}
}

// read takes the CLI's output apart until it ends.
func (p *process) read(stdout io.ReadCloser) {
	defer stdout.Close()
	lines := claude.NewReader(stdout)
	var err error
	for err == nil {
		var raw []byte
		if raw, err = lines.Next(); err == nil {
			p.lastLine.Store(time.Now().UnixNano())
			p.take(raw)
		}
	}
	if !errors.Is(err, io.EOF) {
		p.log.Warn("reading a process failed", "pid", p.child.PID(), "error", err)
		p.kill()
	}
	p.mu.Lock()
	t := p.turn
	p.gone = true
	close(p.exited)
	p.mu.Unlock()
	if t != nil {
		t.fail(errDied)
	}
}

// take hands one line to whom it is for. Lines that aren't JSON and lines that belong to no turn of ours (what the CLI
// does of itself between turns, echoes of control requests) are dropped.
func (p *process) take(raw []byte) {
	line, err := claude.ParseLine(raw)
	if err != nil {
		p.log.Warn("a process wrote something that is not JSON", "pid", p.child.PID(), "bytes", len(raw))
		return
	}
	switch line.Type {
	case "control_response":
		p.mu.Lock()
		reply := p.controls[line.RequestID]
		delete(p.controls, line.RequestID)
		p.mu.Unlock()
		if reply != nil {
			reply <- line
		}
	case "control_request":
		go func() { _ = p.send(claude.RefuseControl(line.RequestID)) }() // never wait for stdin while reading stdout
	default:
		p.mu.Lock()
		t := p.turn
		p.mu.Unlock()
		if t != nil {
			t.take(line)
		}
	}
}

// silentFor is how long the CLI has written nothing.
func (p *process) silentFor() time.Duration {
	return time.Since(time.Unix(0, p.lastLine.Load()))
}
