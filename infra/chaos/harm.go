package main

import (
	"sync"
	"time"
)

const (
	// reunion is how long an instance that is back in touch may take to end the processes of users who have moved.
	reunion = 5 * time.Second
	// recovery is how long after the last fault's end everything may take to be served again.
	recovery = 15 * time.Second
)

// harm is when a fault was somebody's. Its methods may be called concurrently.
type harm struct {
	mu     sync.Mutex // guards spells
	spells []spell
}

type spell struct{ from, to time.Time } // to is zero while it lasts

// begin begins a spell. What it returns ends it.
func (h *harm) begin() (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.spells)
	h.spells = append(h.spells, spell{from: time.Now()})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.spells[n].to = time.Now()
	}
}

// during reports whether there was any between the two times.
func (h *harm) during(from, to time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.spells {
		if s.from.Before(to) && (s.to.IsZero() || s.to.After(from)) {
			return true
		}
	}
	return false
}

// lasts reports whether there has been some all the time since then.
func (h *harm) lasts(since time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.spells {
		if s.to.IsZero() && s.from.Before(since) {
			return true
		}
	}
	return false
}

// latest returns when the last spell began that was not over at the given time.
func (h *harm) latest(since time.Time) (began time.Time, found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.spells {
		if s.to.IsZero() || s.to.After(since) {
			began, found = s.from, true
		}
	}
	return began, found
}
