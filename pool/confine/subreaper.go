package confine

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// watchTick is how often orphans are looked for. No signal tells that one has arrived, only that one has ended.
	watchTick = time.Second
	// watchPause keeps a storm of SIGCHLD from making the watch a busy loop, and watchShare from taking more of a
	// processor than one part in so many, however many processes there are.
	watchPause = 10 * time.Millisecond
	maxPause   = 5 * time.Second
	watchShare = 40
)

// reaper looks after the orphans below this process. There is one, however many Launchers there are: orphans come to
// the process, and don't say from which of them.
var reaper = subreaper{children: make(map[*Child]struct{}), origins: make(map[identity]*Child)}

// subreaper is this process as the parent of all orphans below it: it finds out whose they are, and ends and reaps
// them.
type subreaper struct {
	life      sync.Mutex // guards the fields up to mu; held while the watch starts or ends
	launchers int
	stop      chan struct{}
	stopped   chan struct{}

	// mu guards the fields below. It is held across a fork, so that nobody sees a child that isn't registered yet and
	// takes it for an orphan, and while orphans are reaped, so that no pid changes its owner meanwhile.
	mu       sync.Mutex
	children map[*Child]struct{} // until nothing of them is left
	origins  map[identity]*Child // whose the processes seen alive are: a zombie doesn't tell
}

// join makes this process the parent of orphans and starts the watch, if it is the first Launcher's.
func (w *subreaper) join(logger *slog.Logger) error {
	w.life.Lock()
	defer w.life.Unlock()
	if w.launchers > 0 {
		w.launchers++
		return nil
	}
	// Go opens its files so that no child inherits them. What the service itself has inherited is open to all of them.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("confine: keep files from children: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("confine: setUID subreaper: %w", err)
	}
	w.launchers = 1
	w.stop, w.stopped = make(chan struct{}), make(chan struct{})
	go w.watch(logger)
	return nil
}

// leave ends what join began when the last Launcher leaves.
func (w *subreaper) leave() {
	w.life.Lock()
	defer w.life.Unlock()
	w.launchers--
	if w.launchers > 0 {
		return
	}
	close(w.stop)
	<-w.stopped
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
}

// fork starts the child's process and registers it in one step.
func (w *subreaper) fork(c *Child, do func() (*os.Process, error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for other := range w.children {
		if other.workspace == c.workspace {
			return ErrWorkspaceBusy
		}
	}
	p, err := do()
	if err != nil {
		return err
	}
	c.process, c.pid = p, p.Pid
	w.children[c] = struct{}{}
	return nil
}

// inUse says whether there is a child in the workspace, or something is left of one.
func (w *subreaper) inUse(workspace string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.children {
		if c.workspace == workspace {
			return true
		}
	}
	return false
}

func (w *subreaper) forget(c *Child) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.children, c)
}

func (w *subreaper) of(l *Launcher) []*Child {
	w.mu.Lock()
	defer w.mu.Unlock()
	var children []*Child
	for c := range w.children {
		if c.launcher == l {
			children = append(children, c)
		}
	}
	return children
}

// watch reaps orphans and ends those that nobody answers for, until the last Launcher leaves.
func (w *subreaper) watch(logger *slog.Logger) {
	defer close(w.stopped)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	tick := time.NewTicker(watchTick)
	defer tick.Stop()

	var told map[identity]bool // strays of the last look
	pause := watchPause
	for {
		select {
		case <-ended:
			if !w.pause(pause) {
				return
			}
		case <-tick.C:
		case <-w.stop:
			return
		}
		began := time.Now()
		told = w.endStrays(logger, told)
		pause = min(max(watchPause, watchShare*time.Since(began)), maxPause)
	}
}

// pause waits, and reports whether the watch goes on.
func (w *subreaper) pause(pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-w.stop:
		return false
	}
}

// endStrays kills the orphans that nobody answers for. It logs each of them once: those in told were logged before.
func (w *subreaper) endStrays(logger *slog.Logger, told map[identity]bool) map[identity]bool {
	defer lockRound()()
	all, err := scan(nil)
	if err != nil {
		logger.Error("processes can't be listed", "error", err)
		return told
	}
	strays := make(map[identity]bool)
	for _, o := range w.orphans(all) {
		if o.ended || o.owner != nil {
			continue
		}
		strays[o.identity] = true
		if !told[o.identity] {
			logger.Warn("ending a process that hides where it came from", "pid", o.pid, "name", o.name)
		}
		if err := o.kill(); err != nil && !told[o.identity] {
			logger.Error("a process can't be ended", "pid", o.pid, "name", o.name, "error", err)
		}
	}
	w.forgetEnded(all)
	return strays
}

// orphan is a process that was started by something a child of ours started, and now is a direct child of ours.
type orphan struct {
	process
	owner *Child // nil if it is a stray: it carries no sign of a child that is still there
	ended bool   // since it was seen
}

// orphans finds the orphans among all processes. It reaps those that have ended. The caller has the round.
func (w *subreaper) orphans(all []process) []orphan {
	orphans, workspaces := w.reap(all)
	for i := range orphans {
		o := &orphans[i]
		if o.ended || o.owner != nil {
			continue
		}
		workspace, err := o.origin()
		o.owner = workspaces[workspace] // none if it is hidden from us
		o.ended = errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
		if o.owner != nil {
			w.remember(o.owner, o.process)
		}
	}
	return orphans
}

// remember keeps whose the processes are, for when they are zombies.
func (w *subreaper) remember(owner *Child, all ...process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range all {
		w.origins[p.identity] = owner
	}
}

// forgetEnded drops what was remembered of processes that are no longer there.
func (w *subreaper) forgetEnded(all []process) {
	there := make(map[identity]bool, len(all))
	for _, p := range all {
		there[p.identity] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.origins, func(p identity, _ *Child) bool { return !there[p] })
}

// reap finds the orphans, each with its owner if its session or its uid tells that, and the children by their
// workspaces.
func (w *subreaper) reap(all []process) ([]orphan, map[string]*Child) {
	self, session := os.Getpid(), ownSession()
	sessions, uids, workspaces := make(map[int]*Child), make(map[int]*Child), make(map[string]*Child)
	var orphans []orphan

	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.children {
		sessions[c.pid], workspaces[c.workspace] = c, c
		if c.uid != 0 {
			uids[c.uid] = c
		}
	}
	for _, p := range all {
		if p.ppid != self || p.session == session || sessions[p.pid] != nil {
			continue
		}
		o, reaped := orphan{process: p, owner: sessions[p.session], ended: !p.exists()}, false
		if id, err := p.uid(); err == nil && o.owner == nil {
			o.owner = uids[id]
		}
		if p.state == 'Z' && !o.ended {
			// It isn't reaped if only its first thread has ended.
			pid, err := unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
			o.ended = pid == p.pid || err != nil
			reaped = pid == p.pid
		}
		if o.ended && o.owner == nil {
			o.owner = w.origins[p.identity]
		}
		if reaped && o.owner != nil {
			o.owner.orphanTicks.Add(p.ticks)
		}
		orphans = append(orphans, o)
	}
	return orphans, workspaces
}

// ownSession is the session of this process, which nothing a child starts can enter.
func ownSession() int {
	session, err := unix.Getsid(0)
	if err != nil {
		panic(err) // can't fail for the calling process
	}
	return session
}
