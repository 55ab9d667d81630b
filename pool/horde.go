package pool

import (
	"time"

	"claudepool/pool/api"
	"claudepool/pool/confine"
)

// A horde is what a user has running in more sessions than anybody's work needs. Some kernels (sched_autogroup) give each
// session a share of the processors of its own, so that very many leave others little even where each is slowed. A horde
// that is a crowd by itself therefore stands still, but for the CLI, and for a few at a time that go on for a moment at each
// look, which shows whether they still want to run.
const (
	hordeSessions = 24
	hordeMoment   = 25 * time.Millisecond
	hordeFew      = 4 // processes
)

// hold has hordes stand still that are a crowd by themselves, until they want nothing any more.
func (w *watcher) hold(looks []look) {
	hordes, few := w.hordes(looks), make(map[string]confine.Family)
	w.turn += hordeFew
	for user := range w.held {
		few[user] = hordes[user].Part(w.turn, hordeFew)
		few[user].Stand(false)
	}
	if len(few) > 0 {
		time.Sleep(hordeMoment)
	}
	held := make(map[string]int)
	for user, horde := range hordes {
		calm, was := w.held[user]
		if calm++; !was || few[user].Running() > 0 {
			calm = 0
		}
		many := horde.Sessions() > w.pool.tuning.horde
		switch {
		case many && (was && calm < underLooks || !was && crowded(int64(horde.Running()))):
			held[user] = calm
			horde.Stand(true)
		case was:
			horde.Stand(false)
		}
	}
	w.tellHeld(held)
	w.held = held
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
	for user := range held {
		if _, was := w.held[user]; !was {
			w.pool.opts.Logger.Warn("a user's processes stand still, as they are in too many sessions", "user", api.ShortUser(user))
		}
	}
	for user := range w.held {
		if _, still := held[user]; !still {
			w.pool.opts.Logger.Info("a user's processes stand still no more", "user", api.ShortUser(user))
		}
	}
}
