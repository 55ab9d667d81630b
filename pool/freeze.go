package pool

import (
	"syscall"
	"time"
)

// freeze stops an idle process, which would otherwise take 0.5 % of a core for nothing, until its next use. It reports
// whether it did: a process whose tools still run or whose MCP servers are connected goes on. Whoever may use the
// process calls it, and thaws it before use.
func (p *process) freeze() bool {
	if p.inForce.mcp != nil || p.grant.Open() > 0 {
		return false
	}
	usage, err := p.child.Usage()
	if err != nil || usage.Processes != 1 {
		return false
	}
	p.frozen = p.child.Signal(syscall.SIGSTOP) == nil
	return p.frozen
}

// thaw lets a frozen process go on.
func (p *process) thaw() {
	if p.frozen {
		p.frozen = false
		_ = p.child.Signal(syscall.SIGCONT) // or it is dead, which shows at its next use
	}
}

// freezeIdle freezes a held conversation's process and gives the slot back.
func (p *Pool) freezeIdle(c *conversation) {
	if c.process.alive() {
		c.process.freeze()
	}
	p.mu.Lock()
	c.process.rested = true
	p.mu.Unlock()
	p.yield(c)
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
	for _, s := range awake {
		s.proc.freeze()
		p.mu.Lock()
		s.proc.rested = true
		p.waking--
		p.standbys = append(p.standbys, s)
		p.mu.Unlock()
	}
}
