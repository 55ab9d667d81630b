package pool

import (
	"time"

	"claudepool/infra/snapshot"
	"claudepool/pool/cli"
)

// Snapshot tells what the pool holds now. The caller adds the instance's id.
func (p *Pool) Snapshot() snapshot.Instance {
	s := snapshot.Instance{Capacity: p.opts.MaxProcesses, MaxIdle: p.opts.IdleTimeout,
		CleanupInterval: p.opts.CleanupInterval}
	standbys, parked := p.standbys.Stats(), p.parked.Stats()
	s.Standby, s.Misses = standbys.Ready, standbys.Misses
	s.Parked, s.ParkedMisses, s.MovedTooLarge = parked.Ready, parked.Misses, p.movedTooLarge.Load()
	s.Draining, s.Queued = p.table.queue()
	s.Cleanup = p.cleanups.snapshot()
	users := make(map[string]*snapshot.User)
	for _, c := range p.table.processes() {
		s.Processes++
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
	return s
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
