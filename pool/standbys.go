package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"claudepool/pool/cli"
)

const (
	// standbyAge is how old a standby may become before another takes its place.
	standbyAge = time.Hour
	// standbyInterval is how often the standbys are looked at when nothing has happened.
	standbyInterval = 10 * time.Second
	// firstRetry and lastRetry bound the wait after a standby that could not be started.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// standbys are the processes that are kept ready. Its methods may be called concurrently.
type standbys struct {
	opts     Options
	starter  *starter
	turns    *traffic
	adopting func(*standby)
	life     context.Context
	room     func() int // how many processes there may be beside those of users
	goes     func(func())
	changed  func()        // a snapshot would look different now
	tend     chan struct{} // buffered by one: the standbys need a look

	mu     sync.Mutex // guards everything below
	ready  []*standby // oldest first
	waking int        // those that are being started or stopped
	demand demand
	misses int64 // requests that a standby would have fitted, but none was ready
	ended  bool  // there are to be none any more
	gone   *sync.Cond
}

func newStandbys(p *Pool) *standbys {
	s := &standbys{opts: p.opts, starter: p.starter, turns: p.turns, adopting: p.tuning.adopting, life: p.life, room: p.room,
		goes: p.goes, changed: func() { signal(p.changed) }, tend: make(chan struct{}, 1)}
	s.gone = sync.NewCond(&s.mu)
	return s
}

// keep starts, renews and sheds standbys until the pool closes.
func (s *standbys) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry, pause := firstRetry, time.Time{}
	for {
		select {
		case <-s.life.Done():
			s.shed(0)
			return
		case <-s.tend:
		case <-timer.C:
		}
		want := s.wanted()
		s.shed(want)
		s.freeze()
		next := standbyInterval
		for s.short(want) {
			if left := time.Until(pause); left > 0 { // who comes meanwhile doesn't shorten it
				next = left
				break
			}
			if err := s.add(want); err != nil {
				s.opts.Logger.Warn("a standby could not be started", "error", err, "retry_seconds", retry.Seconds())
				pause = time.Now().Add(retry)
				next, retry = retry, min(2*retry, lastRetry)
				break
			}
			next, retry, want = s.opts.FreezeAfter, firstRetry, s.wanted()
		}
		timer.Reset(next)
	}
}

// end says that there are to be no standbys any more.
func (s *standbys) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	signal(s.tend)
}

// waitGone returns when there is none any more after end, or ctx is done.
func (s *standbys) waitGone(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gone.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil && len(s.ready)+s.waking > 0 {
		s.gone.Wait()
	}
}

// tell is how many are ready, and how many requests found none.
func (s *standbys) tell() (ready int, misses int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready), s.misses
}

// wanted is how many standbys there should be now: as many new users as came at once lately, at least Standby, and no
// more than there is room for.
func (s *standbys) wanted() int {
	if s.opts.MemoryShort() {
		return 0
	}
	room := s.room()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.opts.Standby == 0 {
		return 0
	}
	return max(0, min(max(s.opts.Standby, s.demand.atOnce(time.Now())), room))
}

func (s *standbys) short(want int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready) < want && !s.ended && s.life.Err() == nil
}

// shed ends standbys that are too many, too old, dead, or in the way of the blank ones that are wanted.
func (s *standbys) shed(want int) {
	for _, victim := range s.takeVictims(want) {
		s.discard(victim)
	}
}

func (s *standbys) takeVictims(want int) (victims []*standby) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = slices.DeleteFunc(s.ready, func(one *standby) bool {
		bad := time.Since(one.since) > standbyAge || !one.proc.Alive()
		if bad {
			victims = append(victims, one)
		}
		return bad
	})
	if n := len(s.ready) - want; n > 0 {
		victims = append(victims, s.ready[:n]...)
		s.ready = slices.Clone(s.ready[n:])
	}
	if i := s.inTheWayLocked(want); i >= 0 {
		victims = append(victims, s.ready[i])
		s.ready = slices.Delete(s.ready, i, i+1)
	}
	s.waking += len(victims)
	return victims
}

// inTheWayLocked is the index of a standby that has to go so that there can be a blank one, or -1.
func (s *standbys) inTheWayLocked(want int) int {
	if len(s.ready) < want || !s.demand.wantsBlank(s.blanksLocked(), want) {
		return -1
	}
	return slices.IndexFunc(s.ready, func(one *standby) bool { return !one.blank })
}

func (s *standbys) blanksLocked() (blanks int) {
	for _, one := range s.ready {
		if one.blank {
			blanks++
		}
	}
	return blanks
}

// freeze freezes those that have been ready for a while. They stay in the list: who claims one meanwhile wakes it.
func (s *standbys) freeze() {
	var awake []cli.Idle
	s.mu.Lock()
	for _, one := range s.ready {
		if !one.rested && time.Since(one.since) >= s.opts.FreezeAfter {
			one.rested = true
			awake = append(awake, one.proc.Idle())
		}
	}
	s.mu.Unlock()
	cli.Freeze(awake...)
}

// discard ends a standby that waking counts.
func (s *standbys) discard(one *standby) {
	if err := errors.Join(one.proc.Stop(), one.dir.Remove()); err != nil {
		s.opts.Logger.Error("a standby could not be cleared away", "pid", one.proc.PID(), "error", err)
	}
	s.awoken(nil)
	s.changed()
}

// awoken ends what waking counts: with one that is ready now, or none.
func (s *standbys) awoken(one *standby) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waking--
	if one != nil {
		s.ready = append(s.ready, one)
	}
	s.gone.Broadcast()
}

// add starts one more, of want that there should be.
func (s *standbys) add(want int) error {
	s.mu.Lock()
	s.waking++
	blank := s.demand.wantsBlank(s.blanksLocked(), want)
	s.mu.Unlock()
	one, err := s.prepare(blank)
	s.awoken(one)
	if err != nil {
		return err
	}
	s.changed()
	s.goes(func() {
		<-one.proc.Exited()
		signal(s.tend)
	})
	return nil
}

// take takes the youngest standby that fits out of the list, as what ran last answers soonest; a blank one only where no
// other fits. None is a miss.
func (s *standbys) take(needsBlank bool) *standby {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, one := range slices.Backward(s.ready) {
		if needsBlank && !one.blank || !one.proc.Alive() {
			continue
		}
		if best < 0 || s.ready[best].blank && !one.blank {
			best = i
		}
	}
	if best < 0 {
		s.misses++
		return nil
	}
	one := s.ready[best]
	s.ready = slices.Delete(s.ready, best, best+1)
	s.waking++
	return one
}

// arrive counts a new conversation.
func (s *standbys) arrive(needsBlank bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.demand.arrive(time.Now(), needsBlank)
}
