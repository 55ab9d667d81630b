package pool

import (
	"errors"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
	"claudepool/pool/workspace"
)

// tune gives the options a tuning of their own, with which the quota is measured only when a test says so, and
// interrupts may take their time.
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

// SetQuiet changes how long no turn has to have begun before a standby is started.
func (o *Options) SetQuiet(d time.Duration) { o.tune().quiet = d }

// SetHorde changes in how many sessions a user may have processes.
func (o *Options) SetHorde(sessions int) { o.tune().horde = sessions }

// OnClaim has f called with each standby that has been taken for a user and isn't bound yet.
func (o *Options) OnClaim(f func(*cli.Process)) { o.tune().onClaim = f }

// OnStop has f asked before each try to end a user's process, whether that is to fail.
func (o *Options) OnStop(f func(pid int) error) {
	o.tune().stuckPause = 10 * time.Millisecond
	o.tune().stop = func(p *cli.Process) error {
		if err := f(p.PID()); err != nil {
			return err
		}
		return p.Stop()
	}
}

// CleanUp has the reaper do what it would do at the time.
func (p *Pool) CleanUp(at time.Time) { p.cleanUp(at) }

// Stalled is the number of turns whose process waits for a client to read.
func (p *Pool) Stalled() (stalled int) {
	for _, s := range p.table.processes() {
		if s.process.Stalled() {
			stalled++
		}
	}
	return stalled
}

// Conversations is the number of conversations that are known.
func (p *Pool) Conversations() (n int) {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	for _, u := range p.table.users {
		n += len(u.conversations)
	}
	return n
}

// Former is how many former tokens of a user are remembered.
func (p *Pool) Former(user string) int {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	return len(p.table.users[user].formerIDs)
}

// Sound looks whether conversations are found by what has been said in them, no others are, and all stand in their
// lines in the order of their last use.
func (p *Pool) Sound() error {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	for _, u := range p.table.users {
		for digest, known := range u.byDigest {
			for c, way := range known {
				if is, _ := c.digests.Way(digest); is != way || !c.digestsValid || u.conversations[c.id] != c {
					return errors.New("found by what hasn't been said")
				}
			}
		}
		for _, c := range u.conversations {
			for _, digest := range c.digests {
				if _, found := u.byDigest[digest][c]; c.digestsValid && digest != (api.Digest{}) && !found {
					return errors.New("not all can be found")
				}
			}
		}
	}
	for _, l := range []*line{&p.table.idle, &p.table.dormant} {
		for place := l.list.Front(); place != nil && place.Next() != nil; place = place.Next() {
			if isLaterLocked(place, at(place.Next())) {
				return errors.New("a line is out of order")
			}
		}
	}
	return nil
}

// Doom has all processes' turns end, also those that have just ended.
func (p *Pool) Doom() {
	for _, s := range p.table.processes() {
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
	p.quota.makeRoom()
}

// EvictLargest has files of the user give way who has most, as if nobody were proven.
func (p *Pool) EvictLargest() bool {
	return p.evict(p.takeOfLargest(func(*user, workspace.Space) bool { return true }))
}

// CheckMemory looks at the memory of all processes now, as if they might have limit bytes each.
func (p *Pool) CheckMemory(limit int64) {
	newWatcher(p).look(time.Now(), confine.ReadMachineLoad(), limit, false)
}
