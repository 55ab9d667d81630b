package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

var errStillRuns = errors.New("it still runs")

// spawner starts processes that the kernel ends with the harness, however that ends. Its methods may be called
// concurrently.
type spawner struct {
	dir  string // where the processes' logs are
	jobs chan func()

	mu sync.Mutex // guards n
	n  int
}

// newSpawner keeps the thread that forks for good: the kernel sends the signal when that thread ends.
func newSpawner(dir string) *spawner {
	s := &spawner{dir: dir, jobs: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

func (s *spawner) close() { close(s.jobs) }

// process is one that runs or ran.
type process struct {
	cmd   *exec.Cmd
	log   string // path of what it writes
	ended chan struct{}
}

func (s *spawner) start(env []string, name string, args ...string) (*process, error) {
	s.mu.Lock()
	s.n++
	path := filepath.Join(s.dir, fmt.Sprintf("%03d-%s.log", s.n, filepath.Base(name)))
	s.mu.Unlock()
	log, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(name, args...), log: path, ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = env, log, log, s.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	s.jobs <- func() { started <- p.cmd.Start() }
	err = <-started
	_ = log.Close()
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is in its state
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// kill ends it at once.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// term asks it to end and gives it time to. To end in another way than by itself is an error.
func (p *process) term(patience time.Duration) error {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		if !p.cmd.ProcessState.Success() {
			return fmt.Errorf("%s: %s", p.log, p.cmd.ProcessState)
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s: %w %s after SIGTERM", p.log, errStillRuns, patience)
	}
}

// runs reports whether it has not ended yet.
func (p *process) runs() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// said returns what it has written so far.
func (p *process) said() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 1<<20)) // what is looked for comes early
	return string(text)
}

// await asks again and again until ready says yes, the process it is about has ended, or the time is over.
func await(what string, p *process, patience time.Duration, ready func() bool) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ready() {
			return nil
		}
		if p != nil && !p.runs() {
			return fmt.Errorf("%s has ended: %s", what, p.said())
		}
	}
	return fmt.Errorf("%s was not ready within %s", what, patience)
}
