package confine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
)

const (
	// stderrKept bounds the end of a child's stderr that is kept, in bytes.
	stderrKept = 16 << 10
	// stderrGrace is how long an ended child's stderr may be held open by something it started before its end is told.
	stderrGrace = 200 * time.Millisecond
	// killTimeout bounds how long something may take to disappear after SIGKILL: a machine full of fork bombs is slow.
	killTimeout = 20 * time.Second
)

// Ladder says how patiently a child is stopped. A grace of zero skips its rung.
type Ladder struct {
	CloseGrace time.Duration // between closing stdin and SIGTERM
	TermGrace  time.Duration // between SIGTERM and SIGKILL
}

// Exit says how a child ended: Code is its exit status, or -1 if Signal ended it or nobody can tell.
type Exit struct {
	Code   int
	Signal syscall.Signal
}

func (e Exit) String() string {
	switch {
	case e.Signal != 0:
		return "signal: " + e.Signal.String()
	case e.Code < 0:
		return "unknown exit status"
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// Child is a started process with everything it starts. Its methods may be called concurrently.
//
// When the process ends, whatever its reason, all it started is killed at once; nobody has to ask for it. Stop also
// confirms it. The process itself stays a zombie until then, so its pid, which is also the name of its group and its
// session, can't be given to another process meanwhile.
type Child struct {
	// Stdin is the child's standard input. Close frees a Write that hangs.
	Stdin io.WriteCloser
	// Stdout is the child's standard output, unbuffered. The caller has to close it. It ends after what was written
	// has been read, soon after the child's end, also if somebody unknown still holds the pipe.
	Stdout io.ReadCloser

	launcher    *Launcher
	workspace   string
	dir         string
	pid         int
	uid         int           // of its own; 0 if it runs under the service's
	group       *childGroup   // nil if it is in the service's
	orphanTicks atomic.Uint64 // processor time of orphans of its that have ended, in ticks

	stdout, stderr *os.File
	tail           tail
	stderrDone     chan struct{} // closed at the end of stderr

	exit      Exit          // written before done is closed
	done      chan struct{} // the process has ended
	cleanedUp chan struct{} // the first attempt to kill the rest has ended

	cleanup singleflight.Group

	mu      sync.Mutex  // guards process and reaped
	process *os.Process // to reap it by
	reaped  bool        // from then on the pid may be anybody's
}

// newChild makes a child's pipes. The files are the child's ends, to be closed once it has been forked.
func newChild(l *Launcher, spec Spec) (*Child, [3]*os.File, error) {
	var theirs, ours [3]*os.File
	for i := range theirs {
		r, w, err := os.Pipe()
		if err != nil {
			for _, f := range append(theirs[:i:i], ours[:i]...) {
				f.Close()
			}
			return nil, theirs, fmt.Errorf("confine: %w", err)
		}
		theirs[i], ours[i] = w, r
		if i == 0 {
			theirs[i], ours[i] = r, w
		}
	}
	c := &Child{
		Stdin:      ours[0],
		launcher:   l,
		workspace:  spec.Workspace,
		dir:        spec.Dir,
		stdout:     ours[1],
		stderr:     ours[2],
		stderrDone: make(chan struct{}),
		done:       make(chan struct{}),
		cleanedUp:  make(chan struct{}),
	}
	c.Stdout = &output{file: c.stdout, cleanedUp: c.cleanedUp}
	if c.dir == "" {
		c.dir = l.Seen(spec.Workspace)
	}
	return c, theirs, nil
}

func (c *Child) closePipes() {
	c.Stdin.Close()
	c.stdout.Close()
	c.stderr.Close()
}

// begin starts the goroutines of a child that has been forked.
func (c *Child) begin() {
	c.launcher.work.Go(func() {
		defer close(c.stderrDone)
		defer c.stderr.Close()
		_, _ = io.Copy(&c.tail, c.stderr) // ends with the pipe or with wait's patience
	})
	c.launcher.work.Go(c.wait)
}

// PID is the child's process id, and that of its group and its session.
func (c *Child) PID() int { return c.pid }

// Done is closed when the child itself has ended. What it started may be gone only a moment later: see Stop.
func (c *Child) Done() <-chan struct{} { return c.done }

// Exit says how the child ended. Nobody can tell before Done is closed.
func (c *Child) Exit() Exit {
	select {
	case <-c.done:
		return c.exit
	default:
		return Exit{Code: -1}
	}
}

// StderrTail returns the last 16 KiB of what was written to stderr until now.
func (c *Child) StderrTail() string { return c.tail.String() }

// Signal sends a signal to the child's group. It returns os.ErrProcessDone once nothing of the child is left.
func (c *Child) Signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	return unix.Kill(-c.pid, sig)
}

// Stop closes stdin, then sends SIGTERM to the group, then kills, waiting in between as the ladder says. When ctx is
// done it goes straight to the kill. It returns nil when nothing of the child is left, or after a bounded time an
// ErrSurvivors. Every caller goes down its own ladder, so the least patient one decides; all of them wait.
func (c *Child) Stop(ctx context.Context, ladder Ladder) error {
	if p, err := look(c.pid); err == nil && !errors.Is(c.Signal(0), os.ErrProcessDone) {
		p.leaveIdle()
		c.group.setIdle(false)
	}
	_ = c.Stdin.Close() // closed before, perhaps
	if !c.endsWithin(ctx, ladder.CloseGrace) && ladder.TermGrace > 0 && ctx.Err() == nil {
		_ = c.Signal(unix.SIGTERM)
		_ = c.Signal(unix.SIGCONT) // a stopped process would not see it
	}
	if !c.endsWithin(ctx, ladder.TermGrace) {
		_ = c.Signal(unix.SIGKILL)
	}
	if !c.endsWithin(context.Background(), killTimeout) {
		return fmt.Errorf("%w: pid %d", ErrSurvivors, c.pid)
	}
	return c.cleanUp()
}

// endsWithin waits for the child's end, but no longer than the grace or than ctx lasts.
func (c *Child) endsWithin(ctx context.Context, grace time.Duration) bool {
	timer := time.NewTimer(max(grace, 0))
	defer timer.Stop()
	select {
	case <-c.done:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wait is the one place that waits for the process. It tells its end, then kills what it left.
func (c *Child) wait() {
	exit := awaitExit(c.pid)
	_ = c.Signal(unix.SIGKILL) // its group, which may hold stderr
	select {
	case <-c.stderrDone:
	case <-time.After(stderrGrace):
		_ = c.stderr.SetReadDeadline(time.Now())
		<-c.stderrDone
	}
	_ = c.Stdin.Close()
	c.exit = exit
	close(c.done)

	if err := c.cleanUp(); err != nil {
		c.launcher.logger.Error("child left processes", "pid", c.pid, "error", err)
	}
	close(c.cleanedUp)
	_ = c.stdout.SetReadDeadline(time.Now().Add(drainGrace)) // frees a Read that began before
}

// cleanUp kills all that an ended child left, then reaps it. Concurrent callers share one attempt; later ones try again
// what failed.
func (c *Child) cleanUp() error {
	_, err, _ := c.cleanup.Do("", func() (any, error) {
		if errors.Is(c.Signal(0), os.ErrProcessDone) {
			return nil, nil
		}
		c.group.kill()
		if err := killAll(c.isLeftover, c.leftovers); err != nil {
			return nil, err
		}
		c.mu.Lock()
		_, _ = c.process.Wait() // a zombie: doesn't block, and its state is known
		c.reaped = true
		c.mu.Unlock()
		if err := c.group.remove(); err != nil {
			c.launcher.logger.Warn("a control group can't be removed", "error", err)
		}
		reaper.forget(c)
		return nil, nil
	})
	return err
}

// awaitExit returns when the process has ended, without reaping it.
func awaitExit(pid int) Exit {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return Exit{Code: -1}
		}
	}
	// The package unix doesn't name the fields of a union: on 64-bit machines si_status is at byte 24.
	status := *(*int32)(unsafe.Add(unsafe.Pointer(&info), 24)) // #nosec G103 -- see above
	const exited = 1                                           // CLD_EXITED; the others are ends by a signal
	if info.Code == exited {
		return Exit{Code: int(status)}
	}
	return Exit{Code: -1, Signal: syscall.Signal(status)}
}
