package pool

import (
	"claudepool/pool/api"
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"claudepool/pool/broker"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
	"claudepool/pool/workspace"
)

// tune gives the options a tuning of their own, with which the quota is measured only when a test says so, and interrupts
// may take their time.
func (o *Options) tune() *tuning {
	if o.tuning == nil {
		t := production
		t.quotaInterval, t.interruptGrace = time.Hour, 5*time.Second
		o.tuning = &t
	}
	return o.tuning
}

// ForTests has the pool wait as long as tests may have to.
func (o *Options) ForTests() { o.tune() }

// SetCalm changes how long no turn has to have begun before a standby is made.
func (o *Options) SetCalm(d time.Duration) { o.tune().calm = d }

// SetHorde changes in how many sessions a user may have processes.
func (o *Options) SetHorde(sessions int) { o.tune().horde = sessions }

// OnAdopt has f called with each Adoption.
func (o *Options) OnAdopt(f func(Adoption)) { o.tune().adopting = func(s *standby) { f(Adoption{s}) } }

// OnStop has f asked before each try to end a user's process, whether that is to fail.
func (o *Options) OnStop(f func(pid int) error) {
	o.tune().undeadPause = 10 * time.Millisecond
	o.tune().stop = func(p *cli.Process) error {
		if err := f(p.PID()); err != nil {
			return err
		}
		return p.Stop()
	}
}

// Adoption is a standby that has been taken for a user and isn't bound yet.
type Adoption struct{ s *standby }

// PID is the standby's process id.
func (a Adoption) PID() int { return a.s.proc.PID() }

// Kill kills the standby and returns when its end has been seen.
func (a Adoption) Kill() { a.s.proc.Kill() }

// Bind makes the standby somebody's.
func (a Adoption) Bind(c broker.Credential) error { return a.s.proc.Bind(c) }

// Stop stops the standby. What is asked of it from now on stays unanswered.
func (a Adoption) Stop() { _ = a.s.proc.Signal(syscall.SIGSTOP) }

// Secret is what the standby knows itself by at the broker.
func (a Adoption) Secret() string { return a.s.proc.Secret() }

// BrokerURL is where the broker serves the standby.
func (a Adoption) BrokerURL() string { return a.s.proc.BrokerURL() }

// Open is the number of the standby's calls under way.
func (a Adoption) Open() int { return a.s.proc.Calls() }

// CleanUp has the reaper do what it would do at the time.
func (p *Pool) CleanUp(at time.Time) { p.cleanUp(at) }

// Stalled is the number of turns whose process waits for a client to read.
func (p *Pool) Stalled() (stalled int) {
	for _, s := range p.processes() {
		if s.process.Stalled() {
			stalled++
		}
	}
	return stalled
}

// Blanks is the number of standbys that can be given a system prompt.
func (p *Pool) Blanks() int {
	p.standbys.mu.Lock()
	defer p.standbys.mu.Unlock()
	return p.standbys.blanksLocked()
}

// StandbyPIDs are the process ids of the standbys, the one that the next user gets first.
func (p *Pool) StandbyPIDs() (pids []int) {
	p.standbys.mu.Lock()
	defer p.standbys.mu.Unlock()
	for _, s := range slices.Backward(p.standbys.ready) {
		pids = append(pids, s.proc.PID())
	}
	return pids
}

// AgeStandbys makes all standbys older.
func (p *Pool) AgeStandbys(by time.Duration) {
	p.standbys.mu.Lock()
	defer p.standbys.mu.Unlock()
	for _, s := range p.standbys.ready {
		s.since = s.since.Add(-by)
	}
	signal(p.standbys.tend)
}

// Conversations is the number of conversations that are known.
func (p *Pool) Conversations() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.users {
		n += len(u.conversations)
	}
	return n
}

// Former is how many former tokens of a user are remembered.
func (p *Pool) Former(user string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.users[user].inherited)
}

// Sound looks whether conversations are found by what has been said in them, no others are, and all stand in their lines in
// the order of their last use.
func (p *Pool) Sound() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.users {
		for digest, known := range u.settled {
			for c := range known {
				if _, is := c.digests.Way(digest); !is || !c.settled || u.conversations[c.id] != c {
					return errors.New("found by what hasn't been said")
				}
			}
		}
		for _, c := range u.conversations {
			for _, digest := range c.digests {
				if c.settled && digest != (api.Digest{}) && !u.settled[digest][c] {
					return errors.New("not all can be found")
				}
			}
		}
	}
	for _, l := range []*line{&p.idle, &p.dormant} {
		for at := l.list.Front(); at != nil && at.Next() != nil; at = at.Next() {
			if isLater(at, at.Next().Value.(*conversation)) {
				return errors.New("a line is out of order")
			}
		}
	}
	return nil
}

// Doom has all processes' turns end, also those that have just ended.
func (p *Pool) Doom() {
	for _, s := range p.processes() {
		s.process.Abort(errors.New("doomed"))
	}
}

// SetSlice changes how long each user is measured at a time.
func (o *Options) SetSlice(d time.Duration) { o.tune().quotaSlice = d }

// SetDisk has the disk be as f says: what it has, and what of it is free.
func (o *Options) SetDisk(f func() (total, free workspace.Space)) {
	o.tune().disk = func(string) (workspace.Disk, error) {
		total, free := f()
		return workspace.Disk{Total: total, Free: free}, nil
	}
}

// CheckSpace measures the workspaces now, and makes room where the disk is short.
func (p *Pool) CheckSpace() {
	p.quota.round()
	p.makeRoom()
}

// EvictLargest has files of the user give way who has most, as if nobody were proven.
func (p *Pool) EvictLargest() bool {
	p.mu.Lock()
	s := p.takeOfLargestLocked(func(*user) bool { return true })
	p.mu.Unlock()
	return p.evict(s)
}

// CheckMemory looks at the memory of all processes now, as if they might have limit bytes each.
func (p *Pool) CheckMemory(limit int64) {
	newWatcher(p).look(time.Now(), confine.TakePulse(), limit, false)
}

// NewTraffic returns one in which no turn has begun.
func NewTraffic() *traffic { return newTraffic(production.calm) }

// Begin, Wait and GiveWay are begin, wait and giveWay.
func (t *traffic) Begin() { t.begin() }

func (t *traffic) Wait(ctx context.Context, most time.Duration) time.Duration {
	return t.wait(ctx, most)
}

func (t *traffic) GiveWay(ctx context.Context, most time.Duration, send func(syscall.Signal) error) {
	t.giveWay(ctx, most, send)
}
