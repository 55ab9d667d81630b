package pool

import (
	"time"

	"claudepool/pool/api"
	"claudepool/pool/confine"
)

// A horde is what a user has running in more sessions than anybody's work needs. Some kernels (sched_autogroup) give
// each session a share of the processors of its own, so that very many leave others little even where each is slowed. A
// horde that is a crowd by itself therefore stands still, but for the CLI, and for a few at a time that go on for a
// moment at each look, which shows whether they still want to run.
const (
	hordeSessions  = 24
	hordeProbeTime = 25 * time.Millisecond
	hordeProbes    = 4 // processes
)

// hold has hordes stand still that are a crowd by themselves, until they want nothing any more. hordes has each user's.
func (w *watcher) hold(hordes map[string]confine.Family) {
	wanting := w.probeHeld(hordes)
	held, stopped := make(map[string]int), confine.Family(nil)
	for user, horde := range hordes {
		calm, was := w.held[user]
		if calm++; !was || wanting[user] {
			calm = 0
		}
		many := horde.Sessions() > w.pool.tuning.horde
		if many && (was && calm < underLooks || !was && crowded(int64(horde.Running()))) {
			horde.SetStopped(true)
			held[user], stopped = calm, append(stopped, horde...)
		}
	}
	w.stopped.Except(stopped).SetStopped(false) // whoever has them by now
	w.tellHeld(held)
	w.held, w.stopped = held, stopped
}

// probeHeld has a few of each held horde go on for a moment, and tells whose want to run.
func (w *watcher) probeHeld(hordes map[string]confine.Family) (wanting map[string]bool) {
	if len(w.held) == 0 {
		return nil
	}
	w.turn += hordeProbes
	few := make(map[string]confine.Family)
	for user := range w.held {
		few[user] = hordes[user].Part(w.turn, hordeProbes)
		few[user].SetStopped(false)
	}
	time.Sleep(hordeProbeTime)
	wanting = make(map[string]bool)
	for user, family := range few {
		wanting[user] = family.Running() > 0
	}
	return wanting
}

// hordes are the processes, but for the CLIs, of users who may have a horde.
func (w *watcher) hordes(looks []look) map[string]confine.Family {
	found := make(map[string]confine.Family)
	for _, l := range looks {
		found[l.user] = append(found[l.user], l.usage.Without(l.process.PID())...)
	}
	for user, horde := range found {
		if _, held := w.held[user]; !held && horde.Sessions() <= w.pool.tuning.horde {
			delete(found, user)
		}
	}
	return found
}

// tellHeld logs whose horde stands still, and whose no longer.
func (w *watcher) tellHeld(held map[string]int) {
	log := w.pool.opts.Logger
	for user := range held {
		if _, was := w.held[user]; !was {
			log.Warn("a user's processes stand still, as they are in too many sessions", "user", api.ShortUser(user))
		}
	}
	for user := range w.held {
		if _, still := held[user]; !still {
			log.Info("a user's processes stand still no more", "user", api.ShortUser(user))
		}
	}
}
