package pool

import (
	"time"

	"claudepool/pool/api"
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
			p.checkMemory()
		}
	}
}

func (p *Pool) checkMemory() {
	p.mu.Lock()
	running := make(map[*conversation]*process)
	for _, u := range p.users {
		for _, c := range u.conversations {
			if c.process != nil {
				running[c] = c.process
			}
		}
	}
	p.mu.Unlock()
	for c, proc := range running {
		usage, err := proc.child.Usage()
		if err != nil || usage.RSS <= p.opts.MaxProcessRSS {
			continue
		}
		proc.recycle.Store(true)
		proc.overgrown.Store(usage.RSS > farOver*p.opts.MaxProcessRSS)
		p.opts.Logger.Warn("process over its memory limit", "user", api.ShortUser(c.user.id), "pid", proc.child.PID(), "bytes", usage.RSS)
		p.retireIdle(func(o *conversation) bool { return o == c })
	}
}
