package pool

import (
	"syscall"
	"time"

	"claudepool/pool/confine"
)

// freezePause is the least time between two rounds of freezing: each looks at all processes of the machine.
const freezePause = 500 * time.Millisecond

// freeze stops idle processes, each of which would otherwise take 0.5 % of a core for nothing, until their next use. One
// whose tools still run or whose MCP servers are connected goes on. Whoever may use the processes calls it, and thaws
// them before use.
func freeze(procs ...*process) {
	var idle []*process
	var children []*confine.Child
	for _, p := range procs {
		if p.alive() && p.inForce.mcp == nil && p.grant.Open() == 0 {
			idle, children = append(idle, p), append(children, p.child)
		}
	}
	usages, err := confine.UsageOf(children...)
	if err != nil {
		return // it is tried again after their next use
	}
	for i, p := range idle {
		p.frozen = usages[i].Processes == 1 && p.child.Signal(syscall.SIGSTOP) == nil
	}
}

// thaw lets a frozen process go on.
func (p *process) thaw() {
	if p.frozen {
		p.frozen = false
		_ = p.child.Signal(syscall.SIGCONT) // or it is dead, which shows at its next use
	}
}

// freezeIdle freezes held conversations' processes and gives the slots back.
func (p *Pool) freezeIdle(held []*conversation) {
	var procs []*process
	for _, c := range held {
		procs = append(procs, c.process)
	}
	freeze(procs...)
	p.mu.Lock()
	for _, c := range held {
		c.process.rested = true
	}
	p.mu.Unlock()
	for _, c := range held {
		p.yield(c)
	}
}

// freezeStandbys freezes those that have been ready for a while.
func (p *Pool) freezeStandbys() {
	var awake []*standby
	p.mu.Lock()
	kept := p.standbys[:0:0]
	for _, s := range p.standbys {
		if !s.proc.rested && time.Since(s.since) >= p.opts.FreezeAfter {
			awake = append(awake, s)
		} else {
			kept = append(kept, s)
		}
	}
	p.standbys = kept
	p.waking += len(awake)
	p.mu.Unlock()
	var procs []*process
	for _, s := range awake {
		procs = append(procs, s.proc)
	}
	freeze(procs...)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range awake {
		s.proc.rested = true
	}
	p.waking -= len(awake)
	p.standbys = append(p.standbys, awake...)
}
