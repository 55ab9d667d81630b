package pool

import "claudepool/pool/api"

// Where a conversation comes back in a process that is parked, in a moment, none has to keep its own when the instance
// is nearly full. The longest idle give way ahead of need: no request waits for the end of another's process, and there
// is room for those that are started in advance, without which each would wait for a start.

// maxHeadroom is the largest share of all processes that is kept free, as a divisor.
const maxHeadroom = 4

// headroomOf is how many more processes there should always be room for.
func headroomOf(p *Pool) int64 {
	if !p.parks() || !p.opts.Launcher.Mounts() {
		return 0
	}
	return int64(min(1+p.opts.Standby+2*p.opts.Parked, p.opts.MaxProcesses/maxHeadroom))
}

// giveWay ends the process of a conversation that was taken as there is too little room.
func (s *slot) giveWay() {
	p := s.pool
	p.opts.Logger.Info("an idle process gave way ahead of need", "user", api.ShortUser(s.user.id))
	_ = s.endTaken() // else yield sees to it
	s.yield()
	s.user.releaseIfUnused()
}

// endTaken ends the process of a conversation that takeDue has taken.
func (s *slot) endTaken() error {
	defer s.pool.table.endedTaken()
	return s.end()
}
