package pool

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

// CheckSpace measures the workspaces now.
func (p *Pool) CheckSpace() { p.checkSpace() }

// CheckMemory looks at the memory of all processes now, as if they might have limit bytes each.
func (p *Pool) CheckMemory(limit int64) { p.checkMemory(limit) }
