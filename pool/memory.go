package pool

import (
	"time"

	"claudepool/pool/api"
	"claudepool/pool/confine"
)

const (
	// memoryInterval is how often the memory of all processes is looked at.
	memoryInterval = 5 * time.Second
	// farOver is how many times MaxProcessRSS a process may have before it is ended in the middle of a turn.
	farOver = 2
)

// watchMemory marks processes that have grown too large: they are replaced between turns, or ended at once if they are
// far too large.
func (p *Pool) watchMemory() {
	tick := time.NewTicker(memoryInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-tick.C:
			p.checkMemory(p.opts.MaxProcessRSS)
		}
	}
}

func (p *Pool) checkMemory(limit int64) {
	held, procs := p.running()
	children := make([]*confine.Child, len(procs))
	for i, proc := range procs {
		children[i] = proc.child
	}
	usages, err := confine.UsageOf(children...)
	if err != nil {
		p.opts.Logger.Error("the processes' memory can't be told", "error", err)
		return
	}
	for i, usage := range usages {
		if usage.RSS <= limit {
			continue
		}
		c, proc := held[i], procs[i]
		proc.recycle.Store(true)
		if usage.RSS > farOver*limit {
			proc.doom(errMemory)
		}
		p.opts.Logger.Warn("process over its memory limit", "user", api.ShortUser(c.user.id), "pid", proc.child.PID(), "bytes", usage.RSS)
		p.retireIdle(func(o *conversation) bool { return o == c })
	}
}

// running returns the processes there are now, each with its conversation.
func (p *Pool) running() (held []*conversation, procs []*process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.users {
		for _, c := range u.conversations {
			if c.process != nil {
				held, procs = append(held, c), append(procs, c.process)
			}
		}
	}
	return held, procs
}
