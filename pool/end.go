package pool

import (
	"fmt"
	"syscall"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
)

// stopAttempts is how often it is tried to end a process with all it started, each for several seconds: fork bombs can
// make a machine slow.
const stopAttempts = 3

// end ends the conversation's process. Without an error nothing of the process is left and its room is free. Else it
// keeps its room, its uid and its user, and who has the slot can only yield it.
func (s *slot) end() error {
	var err error
	for range stopAttempts {
		if err = s.stop(s.process); err == nil {
			s.endInnerID(false)
			s.processEnded()
			return nil
		}
	}
	return s.endFailed(err)
}

// stop ends a process that is the conversation's or was to become so; at once if the user has moved, who may have
// another one by now.
func (s *slot) stop(proc *cli.Process) error {
	if s.pool.owner.Held(s.user.id).Err() != nil {
		_ = proc.Signal(syscall.SIGKILL)
	}
	return s.pool.tuning.stop(proc)
}

// endInnerID gives the conversation's files its id, where a process that is gone had another. Before the next one it is
// tried once more, finally: what can't be renamed then either is missing to that.
func (s *slot) endInnerID(final bool) {
	if s.dir == nil {
		return
	}
	if err := s.dir.EndInnerID(final); err != nil {
		s.pool.opts.Logger.Warn("files couldn't be given the conversation's id", "user", api.ShortUser(s.user.id),
			"error", err)
	}
}

// endFailed says that the conversation's process could not be ended.
func (s *slot) endFailed(err error) error {
	s.pool.opts.Logger.Error("a process could not be ended, its room and its user stay taken",
		"user", api.ShortUser(s.user.id), "pid", s.process.PID(), "error", err)
	s.stuck = true
	return fmt.Errorf("pool: end: %w", err)
}

// retryEnd holds the slot of a process that could not be ended until that is gone after all. A pool that closes doesn't
// wait for it, and doesn't give its user up either: that ends with the instance.
func (s *slot) retryEnd() {
	p, pid := s.pool, s.process.PID()
	for {
		select {
		case <-p.life.Done():
			p.opts.Logger.Error("the pool closes without a process's end", "user", api.ShortUser(s.user.id), "pid", pid)
			s.user.setOwned(false)
			s.processEnded()
			close(s.abandoned)
			return
		case <-time.After(p.tuning.stuckPause):
		}
		if p.tuning.stop(s.process) == nil {
			break
		}
	}
	s.endInnerID(false)
	s.processEnded()
	p.opts.Logger.Info("a process has ended at last", "user", api.ShortUser(s.user.id), "pid", pid)
	s.yield()
	s.user.releaseIfUnused()
}

// endIdle ends the process of a conversation that was idle, yields, and gives its user up if nothing of it is left.
func (s *slot) endIdle() {
	_ = s.end() // else yield sees to it
	s.yield()
	s.user.releaseIfUnused()
}

// awaitExit waits for the end of a process and clears it away if it ended while nobody used it.
func (c *conversation) awaitExit(proc *cli.Process) {
	p := c.pool
	select {
	case <-proc.Exited():
	case <-c.abandoned:
		return
	}
	s := c.takeWith(proc)
	if s == nil {
		return
	}
	_ = s.end() // else yield sees to it
	p.opts.Logger.Warn("idle process ended by itself", "user", api.ShortUser(c.user.id),
		"pid", proc.PID(), "exit", proc.Exit())
	s.yield()
	c.user.releaseIfUnused()
}
