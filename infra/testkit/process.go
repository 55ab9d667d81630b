package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

var errStillRuns = errors.New("it still runs")

// tailBytes is how much of what a process wrote is shown to people.
const tailBytes = 4 << 10

// started counts processes, to tell their logs apart.
var started atomic.Int64

// Process is one that runs or ran. Its methods may be called concurrently.
type Process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// Start starts a program in a folder, where it also writes its log. Its environment is env, or if that is nil just the
// PATH. The kernel kills it when this program ends, however that ends; a terminal's Ctrl-C is this program's alone.
func Start(folder string, env []string, name string, args ...string) (*Process, error) {
	if env == nil {
		env = []string{"PATH=" + os.Getenv("PATH")}
	}
	path := filepath.Join(folder, fmt.Sprintf("%03d-%s.log", started.Add(1), filepath.Base(name)))
	log, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &Process{cmd: exec.Command(name, args...), log: path, ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = env, log, log, folder
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	running := make(chan error)
	go p.run(running)
	if err := <-running; err != nil {
		return nil, err
	}
	return p, nil
}

// run keeps its thread until the process has ended: the kernel kills the process when the thread ends that forked it.
func (p *Process) run(running chan<- error) {
	runtime.LockOSThread() // for good: the thread ends with this goroutine
	err := p.cmd.Start()
	running <- err
	if err != nil {
		return
	}
	defer close(p.ended)
	_ = p.cmd.Wait() // how it ended is in its state
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal, if it still runs.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill ends it at once.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.ended
}

// Terminate asks it to end, and waits for that. To end in another way than by itself and well is an error.
func (p *Process) Terminate(within time.Duration) error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		if !p.cmd.ProcessState.Success() {
			return fmt.Errorf("%s: %s", p.log, p.cmd.ProcessState)
		}
		return nil
	case <-time.After(within):
		return fmt.Errorf("%s: %w %s after SIGTERM", p.log, errStillRuns, within)
	}
}

// Runs reports whether it has not ended yet.
func (p *Process) Runs() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Log is what it has written so far.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// String is its log's path and end.
func (p *Process) String() string {
	text := p.Log()
	return p.log + ": " + text[max(0, len(text)-tailBytes):]
}

// Await is as the function, and gives up when the process has ended.
func (p *Process) Await(ctx context.Context, what string, within time.Duration, isSo func() (bool, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.ended:
			cancel(fmt.Errorf("it has ended: %s", p))
		case <-ctx.Done():
		}
	}()
	return Await(ctx, what, within, isSo)
}
