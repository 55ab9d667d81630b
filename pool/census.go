package pool

import (
	"sync/atomic"
	"time"
)

// Census is how many there are of what a pool holds, and of what has happened to it since its start.
type Census struct {
	Busy, Idle                  int // processes of users
	Standby, Parked             int // processes that are nobody's yet and ready
	StandbyMisses, ParkedMisses int64
	Queued                      int // requests that wait for their conversation
	Capacity                    int // most processes of users

	// Processes that were ended while nothing was wrong with them: idle for too long, in the way of others, too large; and
	// conversations whose files gave way.
	EndedIdle, EndedForRoom, EndedForMemory, EvictedFiles int64

	Memory int64         // bytes that users' processes and all they started have, when they were looked at last
	CPU    time.Duration // that they have used in the looks of all times
}

// evictions counts what had to go.
type evictions struct{ room, memory, files atomic.Int64 }

// tenants is what users' processes take, as the watcher has seen it: nanoseconds of processors, bytes of memory.
type tenants struct{ cpu, memory atomic.Int64 }

// Census counts.
func (p *Pool) Census() Census { return p.census(p.table.processes()) }

func (p *Pool) census(processes []seen) Census {
	standbys, parked := p.standbys.Stats(), p.parked.Stats()
	c := Census{Standby: standbys.Ready, StandbyMisses: standbys.Misses, Parked: parked.Ready, ParkedMisses: parked.Misses,
		Capacity: p.opts.MaxProcesses, EndedIdle: p.cleanups.snapshot().Total, EndedForRoom: p.evictions.room.Load(),
		EndedForMemory: p.evictions.memory.Load(), EvictedFiles: p.evictions.files.Load(),
		Memory: p.tenants.memory.Load(), CPU: time.Duration(p.tenants.cpu.Load())}
	_, c.Queued = p.table.queue()
	for _, process := range processes {
		if process.busy {
			c.Busy++
		} else {
			c.Idle++
		}
	}
	return c
}
