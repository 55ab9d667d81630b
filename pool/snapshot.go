package pool

import (
	"sync/atomic"
	"time"

	"claudepool/infra/snapshot"
	"claudepool/pool/cli"
)

// Snapshot tells what the pool holds now. The caller adds the instance's id.
func (p *Pool) Snapshot() snapshot.Instance {
	processes := p.table.processes()
	n := p.census(processes)
	s := snapshot.Instance{Capacity: n.Capacity, MaxIdle: p.opts.IdleTimeout, CleanupInterval: p.opts.CleanupInterval,
		Processes: n.Busy + n.Idle, Busy: n.Busy, Standby: n.Standby, Misses: n.StandbyMisses, Parked: n.Parked,
		ParkedMisses: n.ParkedMisses, MovedTooLarge: p.movedTooLarge.Load(), Queued: n.Queued,
		Cleanup: p.cleanups.snapshot(), Served: p.served.snapshot(), FirstTokens: p.firstTokens.List(time.Now())}
	s.Draining, _ = p.table.queue()
	users := make(map[string]*snapshot.User)
	for _, c := range processes {
		u := users[c.user]
		if u == nil {
			u = &snapshot.User{ID: c.user}
			users[c.user] = u
		}
		u.Processes++
		u.Busy = u.Busy || c.busy
		if u.Processes == 1 || c.lastUsed.After(u.LastUsed) { // described by its most recently used process
			u.PID, u.Alive, u.CreatedAt, u.LastUsed = c.process.PID(), c.process.Alive(), c.started, c.lastUsed
		}
	}
	for _, u := range users {
		s.Users = append(s.Users, *u)
	}
	reserved, _ := p.Load()
	s.Pending = max(0, reserved-s.Processes) // which were counted at another moment
	return s
}

// served counts turns by how they found their process.
type served struct{ standby, reused, resumed, cold atomic.Int64 }

func (s *served) count(how string) {
	switch how {
	case ProcessStandby:
		s.standby.Add(1)
	case ProcessReused:
		s.reused.Add(1)
	case ProcessResumed:
		s.resumed.Add(1)
	case ProcessCold:
		s.cold.Add(1)
	}
}

func (s *served) snapshot() snapshot.Served {
	return snapshot.Served{Standby: s.standby.Load(), Reused: s.reused.Load(), Resumed: s.resumed.Load(),
		Cold: s.cold.Load()}
}

// seen is what others may know of a conversation with a process at one moment.
type seen struct {
	c        *conversation
	user     string
	process  *cli.Process
	started  time.Time
	lastUsed time.Time
	busy     bool
}
