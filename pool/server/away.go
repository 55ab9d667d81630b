package server

import (
	"sync"
	"time"
)

// away tells a turn when nobody has read its stream for a while, and when somebody does again. Its methods may be
// called concurrently.
type away struct {
	after time.Duration
	tell  func(isAway bool)

	mu    sync.Mutex // guards the following; held while tell is called, so that the last call tells what holds
	timer *time.Timer
	count int // of calls of left and returned: a timer that fires late is of an earlier one
	told  bool
	ended bool
}

func (a *away) left() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended || a.tell == nil {
		return
	}
	a.count++
	of := a.count
	a.timer = time.AfterFunc(a.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.ended || a.count != of {
			return
		}
		a.told = true
		a.tell(true)
	})
}

func (a *away) returned() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count++
	if a.timer != nil {
		a.timer.Stop()
	}
	if a.told && !a.ended {
		a.told = false
		a.tell(false)
	}
}

// over says that the turn has ended.
func (a *away) over() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	if a.timer != nil {
		a.timer.Stop()
	}
}
