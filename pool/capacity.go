package pool

import (
	"time"

	"claudepool/pool/api"
)

// stopAttempts is how often it is tried to end a process with all it started, each for several seconds: fork bombs can
// make a machine slow.
const stopAttempts = 3

// reserve takes room for one more process of the held conversation's user. Where there is none, the process that has
// been idle for longest gives way: the user's own if the user has too many, else anybody's.
func (p *Pool) reserve(c *conversation) error {
	for {
		p.mu.Lock()
		if c.user.processes < p.opts.MaxProcessesPerUser && p.slots < p.opts.MaxProcesses {
			c.user.processes++
			p.slots++
			p.mu.Unlock()
			return nil
		}
		ofUser := c.user.processes >= p.opts.MaxProcessesPerUser
		victim := p.longestIdleLocked(func(o *conversation) bool { return !ofUser || o.user == c.user })
		if victim != nil {
			victim.held = true
		}
		p.mu.Unlock()
		switch {
		case victim != nil:
			p.retire(victim)
			p.yield(victim)
			p.settleUser(victim.user.id)
		case ofUser:
			return api.RateLimited(time.Second, "%d conversations of this user are in use", p.opts.MaxProcessesPerUser)
		default:
			p.opts.Logger.Warn("no room for another process", "user", api.ShortUser(c.user.id)) // an alert counts these lines
			return api.Overloaded(time.Second, "no room for another process")
		}
	}
}

// unreserve gives the room of one process back.
func (p *Pool) unreserve(c *conversation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.user.processes--
	p.slots--
	p.empty.Broadcast()
}

func (p *Pool) longestIdleLocked(eligible func(*conversation) bool) *conversation {
	var victim *conversation
	for _, u := range p.users {
		for _, c := range u.conversations {
			if c.idleLocked() && eligible(c) && (victim == nil || c.lastUsed.Before(victim.lastUsed)) {
				victim = c
			}
		}
	}
	return victim
}

// retire ends the process of a conversation that the caller holds. When it returns, nothing of the process is left and
// its room is free.
func (p *Pool) retire(c *conversation) {
	proc := c.process
	for range stopAttempts {
		err := proc.stop()
		if err == nil {
			break
		}
		p.opts.Logger.Error("a process could not be ended", "user", api.ShortUser(c.user.id), "pid", proc.child.PID(), "error", err)
	}
	p.mu.Lock()
	c.process = nil
	p.mu.Unlock()
	p.unreserve(c)
	signal(p.changed)
}

// retireIdle ends the processes of all idle conversations that which picks, side by side, and gives up the users who
// then have none.
func (p *Pool) retireIdle(which func(*conversation) bool) {
	p.mu.Lock()
	var victims []*conversation
	for _, u := range p.users {
		for _, c := range u.conversations {
			if c.idleLocked() && which(c) {
				c.held = true
				victims = append(victims, c)
			}
		}
	}
	p.mu.Unlock()
	for _, c := range victims {
		p.goes(func() {
			p.retire(c)
			p.yield(c)
			p.settleUser(c.user.id)
		})
	}
}
