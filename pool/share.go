package pool

import (
	"runtime"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
)

const (
	// crowd is how many runnable threads per processor it takes for users' shares to be looked at.
	crowd = 4
	// slowFactor is how many times its share a user has to use to be slowed: in a crowd of alike users half are above it.
	slowFactor = 1.5
	// overLooks is at how many looks in a row a user has to have used that to be slowed, so that a process that only
	// starts isn't.
	overLooks = 4
	// wakeLooks is at how many looks a process that was slowed is set back: what was begun in the midst of one may have
	// been missed.
	wakeLooks = 5
	// underLooks is at how many looks in a row a slowed user has to have used clearly less.
	underLooks = 3
	// activeShare is what a user has to use of a processor to count among those that share them.
	activeShare = 0.05
	// stopTime is for how much of each lookInterval a process stands still that can't be slowed otherwise.
	stopTime = 800 * time.Millisecond
)

// crowded reports that more threads want to run than the processors can serve soon.
func crowded(runnable int64) bool { return runnable > int64(crowd*runtime.GOMAXPROCS(0)) }

// share slows users who use more than their share of the processors while there is a crowd, until they use clearly
// less. The processes of a slowed user get only processor time that others leave. The service counts as a user, too.
func (w *watcher) share(looks []look, pulse confine.MachineLoad, passed time.Duration) {
	used, running := make(map[string]float64), make(map[*cli.Process]int)
	waiting := pulse.Runnable
	for _, l := range looks {
		used[l.user] += l.spent.Seconds() / passed.Seconds()
		if w.slow[l.user] { // who is slowed is in nobody's way, and shares with nobody
			running[l.process] = l.usage.Running()
			waiting -= int64(running[l.process])
		}
	}
	isCrowd, active := crowded(waiting), 1
	for user, processors := range used {
		if processors > activeShare && !w.slow[user] {
			active++
		}
	}
	fair := float64(runtime.GOMAXPROCS(0)) / float64(active)
	slow := make(map[string]bool)
	w.suspects = false
	for _, l := range looks {
		if l.over++; used[l.user] <= slowFactor*fair {
			l.over = 0
		}
		if l.under++; used[l.user] > fair/2 || running[l.process] >= crowd { // or it would take more if it got it
			l.under = 0
		}
		if w.slow[l.user] && l.under < underLooks || l.over >= overLooks && isCrowd {
			slow[l.user] = true
		}
		w.suspects = w.suspects || l.over > 0 && !slow[l.user] && isCrowd
	}
	w.apply(looks, slow)
	w.tell(slow, used, fair)
	w.slow = slow
}

// apply slows the processes of the users in slow, and sets those of other users back.
func (w *watcher) apply(looks []look, slow map[string]bool) {
	w.waking = false
	for _, l := range looks {
		switch {
		case slow[l.user]:
			l.woken = wakeLooks
			w.setSlow(l, true)
		case l.woken > 0: // also if its user was another one then
			l.woken--
			w.setSlow(l, false)
		}
		w.waking = w.waking || l.woken > 0 && !slow[l.user]
	}
}

// setSlow slows a process with all it started, or no longer. Where the service may not say how they are scheduled, they
// stand still for most of the time until the next look, unless a horde of their user's does all the time.
func (w *watcher) setSlow(l look, slow bool) {
	_, held := w.held[l.user]
	if err := l.usage.SetIdle(slow); err == nil || !slow || held {
		return
	}
	life := w.pool.life
	w.pool.work.Go(func() {
		l.process.SetStopped(l.usage.Family, true)
		sleep(life, stopTime)
		l.process.SetStopped(l.usage.Family, false)
	})
}

// tell logs who is slowed, and who no longer.
func (w *watcher) tell(slow map[string]bool, used map[string]float64, fair float64) {
	log := w.pool.opts.Logger
	for user := range slow {
		if !w.slow[user] {
			log.Warn("a user's processes give way to others", "user", api.ShortUser(user),
				"processors", used[user], "share", fair)
		}
	}
	for user := range w.slow {
		if !slow[user] {
			log.Info("a user's processes give way no more", "user", api.ShortUser(user))
		}
	}
}
