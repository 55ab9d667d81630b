package pool

import (
	"errors"
	"time"
)

func init() { quotaInterval, interruptGrace = time.Hour, 5*time.Second }

// Stalled is the number of turns whose process waits for a client to read.
func (p *Pool) Stalled() int {
	stalled := 0
	for _, proc := range p.running() {
		proc.mu.Lock()
		t := proc.turn
		proc.mu.Unlock()
		if t != nil && t.stalled() {
			stalled++
		}
	}
	return stalled
}

// Blanks is the number of standbys that can be given a system prompt.
func (p *Pool) Blanks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.blanksLocked()
}

// StandbyPIDs are the process ids of the standbys, the one that the next user gets first.
func (p *Pool) StandbyPIDs() (pids []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.standbys {
		pids = append(pids, s.proc.child.PID())
	}
	return pids
}

// Conversations is the number of conversations that are known.
func (p *Pool) Conversations() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, u := range p.users {
		n += len(u.conversations)
	}
	return n
}

// Doom has all processes' turns end, also those that have just ended.
func (p *Pool) Doom() {
	for _, proc := range p.running() {
		proc.doom(errors.New("doomed"))
	}
}

// CheckSpace measures the workspaces now.
func (p *Pool) CheckSpace() { p.checkSpace() }

// CheckMemory looks at the memory of all processes now, as if they might have limit bytes each.
func (p *Pool) CheckMemory(limit int64) { p.checkMemory(limit) }
