package pool

import (
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
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
	all := p.processes()
	procs := make([]*cli.Process, len(all))
	for i, s := range all {
		procs[i] = s.process
	}
	usages, err := cli.Usage(procs...)
	if err != nil {
		p.opts.Logger.Error("the processes' memory can't be told", "error", err)
		return
	}
	for i, usage := range usages {
		if usage.RSS <= limit {
			continue
		}
		proc := procs[i]
		proc.Recycle()
		if usage.RSS > farOver*limit {
			proc.Abort(errMemory)
		}
		p.opts.Logger.Warn("process over its memory limit", "user", api.ShortUser(all[i].user), "pid", proc.PID(), "bytes", usage.RSS)
		if s := all[i].c.takeWith(proc); s != nil {
			p.goes(s.endIdle)
		}
	}
}
