// Package confine starts the service's child processes and guarantees that nothing a child started outlives it: not
// what left its group or session, not what forked twice, not what threw its environment away. After a crash of the
// service itself, PDEATHSIG ends the children and the next start's LockFolder ends what those left.
//
// It knows nothing about what a child does or says, and it neither creates nor removes workspaces; it only removes the
// folders of instances that are dead. Linux only.
package confine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	// ErrClosed says that the Launcher takes no more children.
	ErrClosed = errors.New("confine: launcher closed")
	// ErrWorkspaceBusy says that something still runs in the workspace.
	ErrWorkspaceBusy = errors.New("confine: workspace is in use")
	// ErrSurvivors says that processes were still there after repeated SIGKILL. The error's text names them.
	ErrSurvivors = errors.New("confine: processes could not be killed")
)

// Marker is the environment variable every child gets, and by it everything it starts. Its value is the workspace.
const Marker = "CLAUDEPOOL_PROCESS"

// Options are a Launcher's settings.
type Options struct {
	Root        string // this instance's own folder, absolute and free of symbolic links; see LockFolder
	Logger      *slog.Logger
	Confinement *Confinement // nil: children may do whatever the service may
	Forbidden   string       // host:port of a server that a probe tries to reach besides; empty: none
}

// Confinement says what children may do. All of them get limits, no capabilities, a filter of system calls, and of the
// files and the network no more than Landlock's rules for them allow.
type Confinement struct {
	UIDs       *UIDs    // nil: children run under the service's uid
	Cgroups    *Cgroups // nil: children stay in the service's control group
	Connect    []uint16 // TCP ports that all of them may connect to, on whatever host
	Bind       []uint16 // TCP ports they may listen on
	Mount      string   // a folder at which each of them finds its workspace; see MountPoint. Empty: where it is
	BestEffort bool     // start them also where the kernel lacks a protection; Probe tells which
}

// Spec says what to start.
type Spec struct {
	Path      string   // of the program, absolute
	Args      []string // without the program's own name
	Env       []string // all of it: nothing is inherited from the service
	Dir       string   // as the child sees it; the workspace if empty
	Workspace string   // below Options.Root, with uids one of NewWorkspace's; one child at a time
	Connect   []uint16 // TCP ports that this child alone may connect to as well, on whatever host
}

// Launcher starts children. Its methods may be called concurrently, and a process may have several Launchers.
//
// While there is one, its process is the parent of every orphan below it. Children are leaders of sessions of their
// own, so a direct child of this process in another session than its own is either a Launcher's or such an orphan. Code
// beside a Launcher may start processes of its own, but not with Setsid: those would be taken for orphans and killed.
type Launcher struct {
	root        string
	logger      *slog.Logger
	confinement *Confinement
	forbidden   string

	starts  chan start    // to the forking thread
	closing chan struct{} // closed when no more children are taken
	forker  chan struct{} // closed when the forking thread has ended
	work    sync.WaitGroup

	close    sync.Once
	closeErr error

	mu     sync.Mutex     // guards owners
	owners map[string]int // of the workspaces: their uids, or -1
}

type start struct {
	spec   Spec
	answer chan<- answer // buffered by one
}

type answer struct {
	child *Child
	err   error
}

// New makes this process the parent of all orphans below it and returns a Launcher that its owner has to Close.
func New(opts Options) (*Launcher, error) {
	if !filepath.IsAbs(opts.Root) || filepath.Clean(opts.Root) != opts.Root || opts.Root == "/" {
		return nil, fmt.Errorf("confine: root %q is not a clean absolute path", opts.Root)
	}
	if err := reaper.join(opts.Logger); err != nil {
		return nil, err
	}
	l := &Launcher{
		root:        opts.Root,
		logger:      opts.Logger,
		confinement: opts.Confinement,
		forbidden:   opts.Forbidden,
		starts:      make(chan start),
		closing:     make(chan struct{}),
		forker:      make(chan struct{}),
		owners:      make(map[string]int),
	}
	go l.fork()
	return l, nil
}

// Close kills every child with all it started and waits until nothing is left. It returns what could not be killed.
// It may be called more than once and concurrently; every call waits.
func (l *Launcher) Close() error {
	l.close.Do(func() {
		close(l.closing)
		<-l.forker
		l.closeErr = l.killChildren()
		if l.closeErr == nil {
			l.work.Wait()
		}
		reaper.leave()
	})
	return l.closeErr
}

func (l *Launcher) killChildren() error {
	children := reaper.of(l)
	errs := make([]error, len(children))
	var all sync.WaitGroup
	for i, c := range children {
		all.Go(func() { errs[i] = c.Stop(context.Background(), Ladder{}) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Start starts a child. ctx bounds only the wait for its turn to be forked; the child's life doesn't depend on it.
func (l *Launcher) Start(ctx context.Context, spec Spec) (*Child, error) {
	if err := l.check(spec); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	answers := make(chan answer, 1)
	select {
	case l.starts <- start{spec, answers}:
		a := <-answers
		return a.child, a.err
	case <-l.closing:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *Launcher) check(spec Spec) error {
	if !filepath.IsAbs(spec.Path) {
		return fmt.Errorf("confine: program %q is not an absolute path", spec.Path)
	}
	if filepath.Clean(spec.Workspace) != spec.Workspace || !strings.HasPrefix(spec.Workspace, l.root+"/") {
		return fmt.Errorf("confine: workspace %q is not a clean path below %q", spec.Workspace, l.root)
	}
	return nil
}

// fork starts all children of the Launcher's life from one thread: a child's PDEATHSIG is sent when the thread that
// forked it ends, and Go ends threads as it likes unless a goroutine is locked to them.
func (l *Launcher) fork() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(l.forker)
	// this thread's alone, for children to inherit; see RaisePriority
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, initialNice())
	for {
		select {
		case s := <-l.starts:
			child, err := l.spawn(s.spec)
			s.answer <- answer{child, err}
		case <-l.closing:
			return
		}
	}
}

func (l *Launcher) spawn(spec Spec) (*Child, error) {
	c, theirs, err := newChild(l, spec)
	if err != nil {
		return nil, err
	}
	cmd, err := l.command(spec, c)
	if err == nil {
		c.group = l.newGroup()
		err = reaper.fork(c, func() (*os.Process, error) { return cmd.start(theirs[:], c.group, l.logger) })
	}
	for _, f := range theirs {
		f.Close()
	}
	if err != nil {
		c.closePipes()
		return nil, fmt.Errorf("confine: start: %w", errors.Join(err, c.group.remove()))
	}
	if err := limit(c.pid); err != nil {
		l.logger.Debug("child runs without all its limits", "pid", c.pid, "error", err)
	}
	c.begin()
	return c, nil
}

// newGroup is nil where there are no groups.
func (l *Launcher) newGroup() *childGroup {
	if l.confinement == nil {
		return nil
	}
	return l.confinement.Cgroups.newGroup()
}
