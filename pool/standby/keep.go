package standby

import (
	"slices"
	"time"

	"claudepool/pool/cli"
)

const (
	// maxAge is how old a process may become before another takes its place.
	maxAge = time.Hour
	// checkInterval is how often the processes are looked at when nothing has happened.
	checkInterval = 10 * time.Second
	// firstRetry and lastRetry bound the wait after a process that could not be started.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// backoff is how long it takes until it is tried again to start a process. It is for one goroutine.
type backoff struct {
	delay time.Duration // after the next failure
	until time.Time
}

func newBackoff() backoff { return backoff{delay: firstRetry} }

// fail returns how long to wait now.
func (b *backoff) fail() time.Duration {
	delay := b.delay
	b.until, b.delay = time.Now().Add(delay), min(2*delay, lastRetry)
	return delay
}

// run keeps processes ready until the Keeper's life ends.
func (k *Keeper) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := newBackoff()
	for {
		select {
		case <-k.life.Done():
			k.trim(0)
			return
		case <-k.wake:
		case <-timer.C:
		}
		timer.Reset(k.check(&retry))
	}
}

// check ends, freezes and starts processes as it is time for it. It returns how long it takes until it is time again.
func (k *Keeper) check(retry *backoff) (next time.Duration) {
	want := k.wanted()
	k.trim(want)
	k.freeze()
	next = checkInterval
	for k.isShort(want) {
		if left := time.Until(retry.until); left > 0 { // new users don't shorten it
			return left
		}
		if err := k.add(want); err != nil {
			delay := retry.fail()
			k.opts.Logger.Warn("a standby could not be started", "error", err, "retry_seconds", delay.Seconds())
			return delay
		}
		*retry = newBackoff()
		next, want = k.opts.FreezeAfter, k.wanted()
	}
	return next
}

// wanted is how many processes there should be now: as many as were claimed at once lately, at least Options.Min,
// and no more than there is room for.
func (k *Keeper) wanted() int {
	if k.opts.MemoryShort() {
		return 0
	}
	room := k.opts.Room()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped || k.opts.Min == 0 {
		return 0
	}
	return max(0, min(max(k.opts.Min, k.demand.peakNow(time.Now())), room))
}

func (k *Keeper) isShort(want int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.ready) < want && !k.stopped && k.life.Err() == nil
}

// trim ends processes that are dead, too old, more than are wanted, or in the way of others that are wanted more.
func (k *Keeper) trim(want int) {
	for _, p := range k.takeSurplus(want) {
		k.discard(p)
	}
}

func (k *Keeper) takeSurplus(want int) (surplus []*Process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready = slices.DeleteFunc(k.ready, func(p *Process) bool {
		bad := time.Since(p.readySince) > maxAge || !p.Alive()
		if bad {
			surplus = append(surplus, p)
		}
		return bad
	})
	if n := len(k.ready) - want; n > 0 {
		surplus = append(surplus, k.ready[:n]...)
		k.ready = slices.Clone(k.ready[n:])
	}
	if i := k.inTheWayLocked(want); i >= 0 {
		surplus = append(surplus, k.ready[i])
		k.ready = slices.Delete(k.ready, i, i+1)
	}
	k.pending += len(surplus)
	return surplus
}

// inTheWayLocked is the index of a process that has to go so that there can be one of a kind that is wanted more, or
// -1.
func (k *Keeper) inTheWayLocked(want int) int {
	have := k.kindsLocked()
	if _, isMissed := k.demand.missing(have, want); !isMissed || len(k.ready) < want {
		return -1
	}
	return slices.IndexFunc(k.ready, func(p *Process) bool { return k.demand.spare(p.kind, have, want) })
}

// kindsLocked counts the processes that are ready.
func (k *Keeper) kindsLocked() map[kind]int {
	have := make(map[kind]int)
	for _, p := range k.ready {
		have[p.kind]++
	}
	return have
}

// freeze freezes processes that have been ready for a while. They stay in the list: Claim thaws them.
func (k *Keeper) freeze() {
	var idle []cli.Idle
	k.mu.Lock()
	for _, p := range k.ready {
		if !p.freezeTried && time.Since(p.readySince) >= k.opts.FreezeAfter {
			p.freezeTried = true
			idle = append(idle, p.Idle())
		}
	}
	k.mu.Unlock()
	cli.Freeze(idle...)
}

// add starts one more of those that are wanted.
func (k *Keeper) add(want int) error {
	k.mu.Lock()
	k.pending++
	missing, _ := k.demand.missing(k.kindsLocked(), want)
	k.mu.Unlock()
	p, err := k.prepare(missing)
	k.finish(p)
	if err != nil {
		return err
	}
	k.opts.Changed()
	k.work.Go(func() { // also after it was claimed: its end may make room for another
		select {
		case <-p.Exited():
			signal(k.wake)
		case <-k.life.Done():
		}
	})
	return nil
}

// discard ends a process that pending counts.
func (k *Keeper) discard(p *Process) {
	if err := p.Discard(); err != nil {
		k.opts.Logger.Error("a standby could not be removed", "pid", p.PID(), "error", err)
	}
	k.finish(nil)
	k.opts.Changed()
}

// finish ends what pending counts, with a process that is ready now, or nil.
func (k *Keeper) finish(p *Process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending--
	if p != nil {
		k.ready = append(k.ready, p)
	}
	k.empty.Broadcast()
}
