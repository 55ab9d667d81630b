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
			p.checkMemory(p.opts.MaxProcessRSS)
		}
	}
}

func (p *Pool) checkMemory(limit int64) {
	for c, proc := range p.running() {
		usage, err := proc.child.Usage()
		if err != nil || usage.RSS <= limit {
			continue
		}
		proc.recycle.Store(true)
		if usage.RSS > farOver*limit {
			proc.doom(errMemory)
		}
		p.opts.Logger.Warn("process over its memory limit", "user", api.ShortUser(c.user.id), "pid", proc.child.PID(), "bytes", usage.RSS)
		p.retireIdle(func(o *conversation) bool { return o == c })
	}
}

// running returns the processes there are now.
func (p *Pool) running() map[*conversation]*process {
	p.mu.Lock()
	defer p.mu.Unlock()
	running := make(map[*conversation]*process)
	for _, u := range p.users {
		for _, c := range u.conversations {
			if c.process != nil {
				running[c] = c.process
			}
		}
	}
	return running
}
