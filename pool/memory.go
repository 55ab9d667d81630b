package pool

import (
	"time"

	"claudepool/pool/api"
	"claudepool/pool/confine"
)

const (
	// hardLimitFactor is how many times MaxProcessRSS a process may have before it is ended in the middle of a turn.
	hardLimitFactor = 2
	// baselineSize is an ordinary process's memory, in bytes: one that has less doesn't count as grown.
	baselineSize = 300 << 20
	// minGrowth is by how much a process has to have grown for others to be spared on its account, in bytes.
	minGrowth = 32 << 20
	// growthWindow is in what time what a process has becomes what it is known to have.
	growthWindow = time.Minute
	// reliefPause is how long to wait for the memory of an ended process before another one is ended.
	reliefPause = 3 * time.Second
)

// growth is by how much the process has more than it used to have, in bytes.
func (l look) growth() int64 { return l.usage.Memory - int64(max(l.size, baselineSize)) }

// setYield has the kernel end the process before others, or no longer.
func (l look) setYield(yield bool) {
	if yield || l.yields {
		l.process.SetOOMVictim(l.usage.Family, yield)
	}
	l.yields = yield
}

// overMemory has a process go that takes more than it may: between turns, or at once if that is far more.
// It reports whether it goes now.
func (w *watcher) overMemory(l look, limit int64) bool {
	w.pool.opts.Logger.Warn("process over its memory limit", "user", api.ShortUser(l.user), "pid", l.process.PID(),
		"bytes", l.usage.Memory, "files", l.usage.Files)
	return w.dismiss(l, l.usage.Memory > hardLimitFactor*limit || l.usage.Files > confine.MostFiles)
}

// dismiss has a process go between turns, or at once. It reports whether it goes now.
func (w *watcher) dismiss(l look, now bool) bool {
	l.process.Recycle()
	if now {
		l.process.Abort(errMemory)
	}
	s := l.c.takeWith(l.process)
	if now || s != nil {
		w.pool.evictions.memory.Add(1)
	}
	if s != nil {
		w.pool.work.Go(s.endIdle)
	}
	return now || s != nil
}

// freeMemory gives the machine memory back when it runs short: the process that has grown most is ended, not one that
// was large before. Where none has grown, the one that has been idle for longest gives way, as the next request of its
// user goes on from its transcript.
func (w *watcher) freeMemory(looks []look) (relieved bool) {
	log := w.pool.opts.Logger
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
	case most != nil && (most.growth() > minGrowth || oldest == nil && most.growth() > 0):
		log.Warn("memory is short: the process that has grown most is ended", "user", api.ShortUser(most.user),
			"pid", most.process.PID(), "bytes", most.usage.Memory, "growth", most.growth())
		w.dismiss(*most, true)
	case oldest != nil:
		log.Warn("memory is short: the process that was idle for longest gives way",
			"user", api.ShortUser(oldest.user), "pid", oldest.process.PID())
		w.dismiss(*oldest, false)
	default:
		return false
	}
	return true
}
