package cli

import (
	"sync"
	"syscall"

	"claudepool/pool/confine"
)

// sleep is whether a process stands still.
type sleep struct {
	mu     sync.Mutex // guards the following
	uses   int        // how often the process was woken for use
	frozen bool       // stopped by SIGSTOP
}

// Freeze stops idle processes, each of which would otherwise take 0.5 % of a core for nothing, until they are thawed. One
// whose tools still run or whose MCP servers are connected goes on, and one that is thawed meanwhile too. All are looked
// at by one look at the machine.
func Freeze(procs ...*Process) {
	var idle []*Process
	var uses []int
	for _, p := range procs {
		if p.Alive() && !p.connected.Load() && p.Calls() == 0 {
			idle, uses = append(idle, p), append(uses, p.sleep.count())
		}
	}
	usages, err := Usage(idle...)
	if err != nil {
		return // it is tried again after their next use
	}
	for i, p := range idle {
		if usages[i].Processes == 1 {
			p.nap(uses[i])
		}
	}
}

// Usage is what each of the processes takes with all it started, by one look at the machine.
func Usage(procs ...*Process) ([]confine.Usage, error) {
	children := make([]*confine.Child, len(procs))
	for i, p := range procs {
		children[i], _ = p.child.(*confine.Child)
	}
	return confine.UsageOf(children...)
}

func (s *sleep) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uses
}

// nap stops the process unless it was woken for more than so many uses: whoever uses it now doesn't know of this.
func (p *Process) nap(uses int) {
	s := &p.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uses == uses && !s.frozen {
		s.frozen = p.child.Signal(syscall.SIGSTOP) == nil
	}
}

// Thaw wakes the process for use.
func (p *Process) Thaw() {
	s := &p.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses++
	if s.frozen {
		s.frozen = false
		_ = p.child.Signal(syscall.SIGCONT) // or it is dead, which shows at its next use
	}
}
