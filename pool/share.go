package pool

import (
	"runtime"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
)

const (
	// crowd is how many threads for each processor make it worth a look who they belong to.
	crowd = 4
	// clearlyMore is how many times its share a user has to use to be slowed: in a crowd of alike users half are above it.
	clearlyMore = 1.5
	// overLooks is at how many looks in a row a user has to have used that to be slowed, so that a process that only starts
	// isn't.
	overLooks = 4
	// wakeLooks is at how many looks who was slowed is set back: what was begun in the midst of one may have been missed.
	wakeLooks = 5
	// underLooks is at how many looks in a row a slowed user has to have used clearly less.
	underLooks = 3
	// activeShare is what a user has to use of a processor to count among those that share them.
	activeShare = 0.05
	// standStill is for how much of each lookInterval a process stands still that can't be slowed otherwise.
	standStill = 800 * time.Millisecond
)

// crowded reports that more threads want to run than the processors can serve soon.
func crowded(runnable int64) bool { return runnable > int64(crowd*runtime.GOMAXPROCS(0)) }

// share has those users' processes do only what nobody else wants to use the processors for who use more than their share
// while there is a crowd, until they use clearly less: all they started goes on, and is in nobody's way. The service
// counts as a user, too.
func (w *watcher) share(looks []look, pulse confine.Pulse, passed time.Duration) {
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
		if l.over++; used[l.user] <= clearlyMore*fair {
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

// apply slows who is to be slowed, and sets others back who were.
func (w *watcher) apply(looks []look, slow map[string]bool) {
	for user := range w.slow {
		w.woken[user] = wakeLooks
	}
	for user := range slow {
		delete(w.woken, user)
	}
	for _, l := range looks {
		if is := slow[l.user]; is || w.woken[l.user] > 0 {
			w.pool.setSlow(l.usage, is)
		}
	}
	for user := range w.woken {
		if w.woken[user]--; w.woken[user] == 0 {
			delete(w.woken, user)
		}
	}
}

// setSlow slows a process with all it started, or no longer. Where the service may not say how they are scheduled, they stand
// still for most of the time until the next look.
func (p *Pool) setSlow(usage confine.Usage, slow bool) {
	err := usage.SetIdle(slow)
	if err != nil && slow {
		p.work.Go(func() {
			usage.Stand(true)
			sleep(p.life, standStill)
			usage.Stand(false)
		})
	}
}

// tell logs who is slowed, and who no longer.
func (w *watcher) tell(slow map[string]bool, used map[string]float64, fair float64) {
	for user := range slow {
		if !w.slow[user] {
			w.pool.opts.Logger.Warn("a user's processes give way to others", "user", api.ShortUser(user), "processors", used[user], "share", fair)
		}
	}
	for user := range w.slow {
		if !slow[user] {
			w.pool.opts.Logger.Info("a user's processes give way no more", "user", api.ShortUser(user))
		}
	}
}
