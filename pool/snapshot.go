package pool

import (
	"time"

	"claudepool/infra/snapshot"
)

// Snapshot tells what the pool holds now. The caller adds the instance's id.
func (p *Pool) Snapshot() snapshot.Instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := snapshot.Instance{
		Capacity: p.opts.MaxProcesses, Draining: p.draining, Standby: len(p.standbys), Misses: p.misses,
		MaxIdle: p.opts.IdleTimeout, CleanupInterval: p.opts.CleanupInterval,
		Cleanup: snapshot.Cleanup{Last: p.cleanup.last, Total: p.cleanup.total},
	}
	if p.cleanup.total > 0 {
		s.Cleanup.AvgLifetime = p.cleanup.lifetime / time.Duration(p.cleanup.total)
	}
	for _, u := range p.users {
		entry := u.snapshotLocked(&s)
		if entry.Processes > 0 {
			s.Processes += entry.Processes
			s.Users = append(s.Users, entry)
		}
	}
	return s
}

// snapshotLocked describes the user by its most recently used process.
func (u *user) snapshotLocked(s *snapshot.Instance) snapshot.User {
	entry := snapshot.User{ID: u.id}
	for _, c := range u.conversations {
		s.Queued += len(c.waiters)
		if c.process == nil {
			continue
		}
		entry.Processes++
		entry.Busy = entry.Busy || c.held
		if entry.Processes == 1 || c.lastUsed.After(entry.LastUsed) {
			entry.PID, entry.Alive = c.process.child.PID(), c.process.alive()
			entry.CreatedAt, entry.LastUsed = c.process.started, c.lastUsed
		}
	}
	return entry
}
