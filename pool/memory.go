package pool

import (
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
)

const (
	// pulseInterval is how often it is looked whether something goes on, and memoryInterval how often all processes are looked
	// at when nothing does. While something goes on it is every lookInterval, or where somebody may have to be slowed every
	// suspectInterval.
	pulseInterval   = 250 * time.Millisecond
	suspectInterval = 500 * time.Millisecond
	lookInterval    = time.Second
	memoryInterval  = 5 * time.Second
	// farOver is how many times MaxProcessRSS a process may have before it is ended in the middle of a turn.
	farOver = 2
	// usualSize is what a process may have that nobody is surprised at, in bytes: who has no more hasn't grown.
	usualSize = 300 << 20
	// leastGrowth is by how much a process has to have grown for others to be spared on its account, in bytes.
	leastGrowth = 32 << 20
	// growthWindow is in what time what a process has becomes what it is known to have.
	growthWindow = time.Minute
	// reliefPause is how long the machine has to get memory back from who was ended before another one is.
	reliefPause = 3 * time.Second
)

// watcher looks at what processes take of the machine, and ends or slows those that take too much. It is for one goroutine.
type watcher struct {
	pool  *Pool
	last  time.Time     // when all were looked at
	pulse confine.Pulse // what it was then
	known map[*cli.Process]*record
	slow  map[string]bool // users whose processes do only what nobody else wants to use the processors for
	woken map[string]int  // looks at which those who were slowed are still set back
	held  map[string]int  // users with a horde that stands still, and at how many looks in a row it wanted nothing
	turn  int             // whose it is of a horde to go on for a moment

	suspects bool      // somebody may have to be slowed at the next look
	relieved time.Time // when a process was ended because memory was short
}

// record is what is known of a process from the last looks.
type record struct {
	cpu    time.Duration
	size   float64 // of its memory, in bytes, as it has been for a while
	yields bool    // the kernel would end it first
	over   int     // looks in a row at which its user has used more than its share
	under  int     // looks in a row at which its user has used less than half of it
}

// look is what is seen of one process.
type look struct {
	seen
	usage confine.Usage
	*record
	spent time.Duration // processor time since the last look
}

func newWatcher(p *Pool) *watcher {
	return &watcher{pool: p, known: make(map[*cli.Process]*record), slow: make(map[string]bool), woken: make(map[string]int), held: make(map[string]int)}
}

// watchUsage looks at processes' memory and processor time: every few seconds, and at once when something goes on.
func (p *Pool) watchUsage() {
	tick := time.NewTicker(pulseInterval)
	defer tick.Stop()
	w := newWatcher(p)
	for {
		select {
		case <-p.life.Done():
			return
		case <-tick.C:
			w.beat(time.Now()) // on a busy machine the tick may be an old one
		}
	}
}

// beat looks at all processes if that is due.
func (w *watcher) beat(now time.Time) {
	pulse, short := confine.TakePulse(), w.pool.opts.MemoryShort()
	wait := lookInterval
	if w.suspects {
		wait = suspectInterval
	}
	sudden := pulse.Runnable > w.pulse.Runnable+hordeSessions
	if now.Sub(w.last) < wait && !sudden {
		return
	}
	restless := short || w.suspects || len(w.slow)+len(w.woken)+len(w.held) > 0 || crowded(pulse.Runnable) ||
		pulse.Available < w.pulse.Available-pulse.Total/20 || pulse.Files > w.pulse.Files+pulse.MostFiles/20
	if restless || now.Sub(w.last) >= memoryInterval {
		w.look(now, pulse, w.pool.opts.MaxProcessRSS, short)
	}
}

// look looks at all processes and acts on what they take.
func (w *watcher) look(now time.Time, pulse confine.Pulse, limit int64, short bool) {
	passed := now.Sub(w.last)
	looks, err := w.see(passed)
	w.last, w.pulse = now, pulse
	if err != nil {
		w.pool.opts.Logger.Error("what processes take can't be told", "error", err)
		return
	}
	ended := 0
	for _, l := range looks {
		l.setYield(l.usage.Memory > limit || l.growth() > leastGrowth)
		if (l.usage.Memory > limit || l.usage.Files > confine.MostFiles) && w.pool.overMemory(l, limit) {
			ended++
		}
	}
	if short && ended == 0 && now.Sub(w.relieved) > reliefPause && w.pool.freeMemory(looks) {
		w.relieved = now
	}
	w.share(looks, pulse, passed)
	w.hold(looks)
}

// see asks for what all processes take, and keeps it for the next time.
func (w *watcher) see(passed time.Duration) ([]look, error) {
	all := w.pool.processes()
	procs := make([]*cli.Process, len(all))
	for i, s := range all {
		procs[i] = s.process
	}
	usages, err := cli.Usage(procs...)
	if err != nil {
		return nil, err
	}
	known, looks := make(map[*cli.Process]*record), make([]look, len(all))
	for i, usage := range usages {
		r := w.known[procs[i]]
		if r == nil {
			r = &record{cpu: usage.CPU, size: usualSize}
		}
		known[procs[i]] = r
		looks[i] = look{all[i], usage, r, max(0, usage.CPU-r.cpu)}
		r.cpu = usage.CPU
		r.size += (float64(usage.Memory) - r.size) * min(1, passed.Seconds()/growthWindow.Seconds())
	}
	w.known = known
	return looks, nil
}

// growth is by how much the process has more than it used to have, in bytes.
func (l look) growth() int64 { return l.usage.Memory - int64(max(l.size, usualSize)) }

// setYield has the kernel end the process before others, or no longer.
func (l look) setYield(yield bool) {
	if yield || l.yields {
		l.process.SetYield(l.usage.Family, yield)
	}
	l.yields = yield
}

// overMemory has a process go that takes more than it may: between turns, or at once if that is far more.
// It reports whether it goes now.
func (p *Pool) overMemory(l look, limit int64) bool {
	p.opts.Logger.Warn("process over its memory limit", "user", api.ShortUser(l.user), "pid", l.process.PID(), "bytes", l.usage.Memory, "files", l.usage.Files)
	return p.dismiss(l, l.usage.Memory > farOver*limit || l.usage.Files > confine.MostFiles)
}

// dismiss has a process go between turns, or at once. It reports whether it goes now.
func (p *Pool) dismiss(l look, now bool) bool {
	l.process.Recycle()
	if now {
		l.process.Abort(errMemory)
	}
	s := l.c.takeWith(l.process)
	if s != nil {
		p.work.Go(s.endIdle)
	}
	return now || s != nil
}

// freeMemory gives the machine memory back when it runs short: who has grown most goes, not who was there before. Where nobody
// has grown, what has been idle for longest gives way, as the next request of its user goes on from its transcript.
func (p *Pool) freeMemory(looks []look) (relieved bool) {
	var most, oldest *look
	for i := range looks {
		l := &looks[i]
		if most == nil || l.growth() > most.growth() {
			most = l
		}
		if !l.busy && (oldest == nil || l.lastUsed.Before(oldest.lastUsed)) {
			oldest = l
		}
	}
	switch {
	case most != nil && (most.growth() > leastGrowth || oldest == nil && most.growth() > 0):
		p.opts.Logger.Warn("memory is short: the process that has grown most is ended", "user", api.ShortUser(most.user),
			"pid", most.process.PID(), "bytes", most.usage.Memory, "growth", most.growth())
		p.dismiss(*most, true)
	case oldest != nil:
		p.opts.Logger.Warn("memory is short: the process that was idle for longest gives way", "user", api.ShortUser(oldest.user), "pid", oldest.process.PID())
		p.dismiss(*oldest, false)
	default:
		return false
	}
	return true
}
