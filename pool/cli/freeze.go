package cli

import (
	"sync"
	"sync/atomic"
	"syscall"

	"claudepool/pool/confine"
)

// freezer stops a process that nobody uses, and knows whether it is stopped.
type freezer struct {
	uses   atomic.Int64 // how often the process was woken for use; changed under mu
	frozen atomic.Bool  // stopped by SIGSTOP; changed under mu

	mu sync.Mutex
}

// Idle is a process that nobody used at a certain moment.
type Idle struct {
	proc *Process
	uses int64
}

// Idle notes that nobody uses the process now, as only its owner can tell, who may hold a lock: it waits for nobody.
func (p *Process) Idle() Idle { return Idle{p, p.freezer.uses.Load()} }

// Freeze stops idle processes, each of which would otherwise take 0.5 % of a core for nothing, until they are thawed.
// One whose tools still run or whose MCP servers are connected goes on, and one that was thawed since it was idle. All
// are looked at by one look at the machine.
func Freeze(all ...Idle) {
	var idle []Idle
	var procs []*Process
	for _, one := range all {
		if p := one.proc; p.Alive() && !p.connected.Load() && p.Calls() == 0 {
			idle, procs = append(idle, one), append(procs, p)
		}
	}
	families, err := Families(procs...)
	if err != nil {
		return // it is tried again after their next use
	}
	for i, one := range idle {
		if families[i].Living() == 1 {
			one.stop()
		}
	}
}

// Families is each of the processes with all it started, by one look at the machine.
func Families(procs ...*Process) ([]confine.Family, error) {
	return confine.FamiliesOf(childrenOf(procs)...)
}

// Usage is what each of the processes takes with all it started, by one look at the machine.
func Usage(procs ...*Process) ([]confine.Usage, error) {
	return confine.UsageOf(childrenOf(procs)...)
}

// Unlinked is what each of them takes of the disk with files that have no name, in the same way.
func Unlinked(procs ...*Process) ([]confine.Unlinked, error) {
	return confine.UnlinkedBy(childrenOf(procs)...)
}

// SetOOMVictim has the kernel end the process before others when memory runs out, and what it started before itself, or
// no longer.
func (p *Process) SetOOMVictim(f confine.Family, yield bool) { f.SetOOMVictim(p.PID(), yield) }

func childrenOf(procs []*Process) []*confine.Child {
	children := make([]*confine.Child, len(procs))
	for i, p := range procs {
		children[i], _ = p.child.(*confine.Child)
	}
	return children
}

// stop stops the process unless it was woken since: whoever uses it now doesn't know of this.
func (i Idle) stop() {
	s := &i.proc.freezer
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uses.Load() == i.uses && !s.frozen.Load() {
		s.frozen.Store(i.proc.child.Signal(syscall.SIGSTOP) == nil)
	}
}

// SetStopped has the process and all it started stand still, or go on. The process itself stands still anyway while it
// is frozen: Thaw alone wakes it.
func (p *Process) SetStopped(f confine.Family, still bool) {
	s := &p.freezer
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen.Load() {
		f = f.Without(p.PID())
	}
	f.SetStopped(still)
}

// Frozen reports whether the process stands still, so that nothing of it does anything.
func (p *Process) Frozen() bool { return p.freezer.frozen.Load() }

// Thaw wakes the process for use.
func (p *Process) Thaw() {
	s := &p.freezer
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses.Add(1)
	if s.frozen.Load() {
		s.frozen.Store(false)
		_ = p.child.Signal(syscall.SIGCONT) // or it is dead, which shows at its next use
	}
}
