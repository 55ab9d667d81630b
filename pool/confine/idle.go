package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// idlePasses bounds how often the threads of one process are gone through: those that are begun meanwhile inherit what
// the thread had that begins them.
const idlePasses = 3

// ErrCannotSchedule says that this process may not change how others are scheduled.
var ErrCannotSchedule = errors.New("confine: can't change how processes are scheduled")

// SetIdle has what the child and all it started do only what nobody else wants to use the processors for, or as usual
// again. What they start inherits it; what was started in the midst of it may be missed, so that it's to be called
// again with the family of the next look. Priorities stay as they are.
func (f Family) SetIdle(idle bool) error {
	if !maySchedule() {
		return ErrCannotSchedule
	}
	policy, weight := unix.SCHED_NORMAL, "0"
	if idle {
		policy, weight = unix.SCHED_IDLE, "19"
	}
	sessions := make(map[int]bool)
	for _, p := range f {
		if err := p.schedule(uint32(policy), idlePasses); err != nil { // #nosec G115 -- a constant
			return err
		}
		if !sessions[p.session] { // each of which some kernels treat as one, and give it a share of its own
			sessions[p.session] = true
			p.setSessionNice(weight)
		}
	}
	return nil
}

// schedule sets the policy of all threads of a process, until a pass finds no new ones.
func (p process) schedule(policy uint32, passes int) error {
	if !p.exists() {
		return nil
	}
	set := make(map[string]bool)
	for range passes {
		before := len(set)
		tasks, err := os.ReadDir("/proc/" + strconv.Itoa(p.pid) + "/task")
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || set[task.Name()] {
				continue
			}
			set[task.Name()] = true
			attr, err := unix.SchedGetAttr(tid, 0)
			if err != nil || attr.Policy == policy {
				continue
			}
			attr.Policy, attr.Flags = policy, 0
			if err := unix.SchedSetAttr(tid, attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("%w: %w", ErrCannotSchedule, err)
			}
		}
		if len(set) == before {
			return nil
		}
	}
	return nil
}

// leaveIdle takes back that the process gives way to others, so that it comes to its end.
func (p process) leaveIdle() {
	attr, err := unix.SchedGetAttr(p.pid, 0)
	if err != nil || attr.Policy != unix.SCHED_IDLE {
		return
	}
	_ = p.schedule(unix.SCHED_NORMAL, 1)
	p.setSessionNice("0")
}

// setSessionNice sets the priority of the process's session as a whole, where kernels have such. They take few such
// wishes at a time, so it isn't asked for again.
func (p process) setSessionNice(nice string) {
	file := "/proc/" + strconv.Itoa(p.pid) + "/autogroup"
	now, err := os.ReadFile(file) // #nosec G304 -- of a process's number
	if err == nil && !strings.HasSuffix(strings.TrimSpace(string(now)), " nice "+nice) {
		_ = os.WriteFile(file, []byte(nice), 0)
	}
}

// maySchedule says whether this process may change how others are scheduled, and back: to do so with one's own alone,
// as anybody may, can't be taken back.
var maySchedule = sync.OnceValue(func() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	return unix.Capget(&header, &have[0]) == nil && have[0].Effective&(1<<unix.CAP_SYS_NICE) != 0
})

// Running is how many threads of the child's run or wait for a processor.
func (f Family) Running() (threads int) {
	for _, p := range f {
		tasks, _ := os.ReadDir("/proc/" + strconv.Itoa(p.pid) + "/task")
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				continue
			}
			if thread, err := look(tid); err == nil && thread.state == 'R' {
				threads++
			}
		}
	}
	return threads
}

// SetStopped has all processes of a child stand still, or go on.
func (f Family) SetStopped(still bool) {
	signal := unix.SIGCONT
	if still {
		signal = unix.SIGSTOP
	}
	for _, p := range f {
		if p.exists() {
			_ = unix.Kill(p.pid, signal) // or it has just ended
		}
	}
}

// initialNice is the priority that this process was started with.
var initialNice = sync.OnceValue(func() int {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return 0
	}
	return 20 - n // what the system call makes of it
})

// RaisePriority has this process come before all others, as far as it may: its children are as they would have been. It
// is for programs that are nothing but the service.
func RaisePriority() error {
	const before = -10
	if initialNice() <= before {
		return nil
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, before); err != nil {
				return ErrCannotSchedule
			}
		}
	}
	_ = os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(before)), 0) // not all kernels have these
	return nil
}
