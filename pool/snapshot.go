package pool

import (
	"time"

	"claudepool/infra/snapshot"
)

// Snapshot tells what the pool holds now. The caller adds the instance's id.
func (p *Pool) Snapshot() snapshot.Instance {
	s := snapshot.Instance{Capacity: p.opts.MaxProcesses, MaxIdle: p.opts.IdleTimeout,
		CleanupInterval: p.opts.CleanupInterval}
	standbys := p.standbys.Stats()
	s.Standby, s.Misses = standbys.Ready, standbys.Misses
	p.tell(&s)
	users := make(map[string]*snapshot.User)
	for _, c := range p.processes() {
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

// averageLifetime is that of processes that were cleaned up.
func (c cleanupStats) averageLifetime() time.Duration {
	if c.total == 0 {
		return 0
	}
	return c.lifetime / time.Duration(c.total)
}
