package pool

import (
	"time"

	"claudepool/pool/cli"
	"claudepool/pool/confine"
)

const (
	// pulseInterval is how often it is looked whether something goes on, and memoryInterval how often all processes are
	// looked at when nothing does. While something goes on it is every lookInterval, or where somebody may have to be
	// slowed every suspectInterval.
	pulseInterval   = 250 * time.Millisecond
	suspectInterval = 500 * time.Millisecond
	lookInterval    = time.Second
	memoryInterval  = 5 * time.Second
)

// watcher looks at what processes take of the machine, and ends or slows those that take too much. It is for one
// goroutine.
type watcher struct {
	pool  *Pool
	last  time.Time           // when all were looked at
	pulse confine.MachineLoad // what it was then
	known map[*cli.Process]*record
	slow  map[string]bool // users whose processes do only what nobody else wants to use the processors for
	held  map[string]int  // users whose hordes stand still: looks in a row at which they wanted nothing
	turn  int             // whose it is of a horde to go on for a moment

	stopped confine.Family // what stands still of all hordes

	suspects bool      // somebody may have to be slowed at the next look
	waking   bool      // somebody who was slowed has to be set back at the next look, too
	relieved time.Time // when a process was ended because memory was short
}

// record is what is known of a process from the last looks.
type record struct {
	cpu    time.Duration
	size   float64 // of its memory, in bytes, as it has been for a while
	yields bool    // the kernel would end it first
	over   int     // looks in a row at which its user has used more than its share
	under  int     // looks in a row at which its user has used less than half of it
	woken  int     // looks at which it is still to be set back, as it was slowed
}

// look is what is seen of one process.
type look struct {
	seen
	usage confine.Usage
	*record
	spent time.Duration // processor time since the last look
}

func newWatcher(p *Pool) *watcher {
	return &watcher{pool: p, known: make(map[*cli.Process]*record), slow: make(map[string]bool),
		held: make(map[string]int)}
}

// run looks at processes' memory and processor time until the pool's life ends: every few seconds, and at once when
// something goes on.
func (w *watcher) run() {
	tick := time.NewTicker(pulseInterval)
	defer tick.Stop()
	for {
		select {
		case <-w.pool.life.Done():
			return
		case <-tick.C:
			w.beat(time.Now()) // on a busy machine the tick may be an old one
		}
	}
}

// beat looks at all processes if that is due.
func (w *watcher) beat(now time.Time) {
	pulse, short := confine.ReadMachineLoad(), w.pool.opts.MemoryShort()
	wait := lookInterval
	if w.suspects {
		wait = suspectInterval
	}
	sudden := pulse.Runnable > w.pulse.Runnable+hordeSessions
	if now.Sub(w.last) < wait && !sudden {
		return
	}
	restless := short || w.suspects || w.waking || len(w.slow)+len(w.held) > 0 || crowded(pulse.Runnable) ||
		pulse.Available < w.pulse.Available-pulse.Total/20 || pulse.Files > w.pulse.Files+pulse.MostFiles/20
	if restless || now.Sub(w.last) >= memoryInterval {
		w.look(now, pulse, w.pool.opts.MaxProcessRSS, short)
	}
}

// look looks at all processes and acts on what they take.
func (w *watcher) look(now time.Time, pulse confine.MachineLoad, limit int64, short bool) {
	passed := now.Sub(w.last)
	looks, err := w.see(passed)
	w.last, w.pulse = now, pulse
	if err != nil {
		w.pool.opts.Logger.Error("what processes take can't be told", "error", err)
		return
	}
	ended := 0
	for _, l := range looks {
		l.setYield(l.usage.Memory > limit || l.growth() > minGrowth)
		if (l.usage.Memory > limit || l.usage.Files > confine.MostFiles) && w.overMemory(l, limit) {
			ended++
		}
	}
	if short && ended == 0 && now.Sub(w.relieved) > reliefPause && w.freeMemory(looks) {
		w.relieved = now
	}
	w.share(looks, pulse, passed)
	w.hold(w.hordes(looks))
}

// see asks for what all processes take, and keeps it for the next time.
func (w *watcher) see(passed time.Duration) ([]look, error) {
	all := w.pool.table.processes()
	procs := make([]*cli.Process, len(all))
	for i, s := range all {
		procs[i] = s.process
	}
	usages, err := cli.Usage(procs...)
	if err != nil {
		return nil, err
	}
	known, looks := make(map[*cli.Process]*record), make([]look, len(all))
	var memory int64
	for i, usage := range usages {
		r := w.known[procs[i]]
		if r == nil {
			r = &record{cpu: usage.CPU, size: baselineSize}
		}
		known[procs[i]] = r
		looks[i] = look{all[i], usage, r, max(0, usage.CPU-r.cpu)}
		memory += usage.Memory
		w.pool.tenants.cpu.Add(int64(looks[i].spent))
		r.cpu = usage.CPU
		r.size += (float64(usage.Memory) - r.size) * min(1, passed.Seconds()/growthWindow.Seconds())
	}
	w.known = known
	w.pool.tenants.memory.Store(memory)
	return looks, nil
}
