package pool

import (
	"sync"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
)

const (
	// mostUnderway is how many users' walks are kept from one round to the next: each may hold confine.MaxDepth folders open.
	mostUnderway = 8
	// unnoticed is which part of one user's quota all running processes together may write until they are measured.
	unnoticed = 16
)

// Space is what files take.
type Space struct {
	Bytes int64 // on disk
	Files int64 // directories and links too
}

func (s Space) within(limit Space) bool { return s.Bytes <= limit.Bytes && s.Files <= limit.Files }

func (s Space) plus(o Space) Space { return Space{s.Bytes + o.Bytes, s.Files + o.Files} }

func (s Space) minus(o Space) Space { return Space{s.Bytes - o.Bytes, s.Files - o.Files} }

func (s Space) part(n int64) Space { return Space{s.Bytes / n, s.Files / n} }

// atLeast is the larger of both, each by itself; atMost the smaller.
func (s Space) atLeast(o Space) Space { return Space{max(s.Bytes, o.Bytes), max(s.Files, o.Files)} }

func (s Space) atMost(o Space) Space { return Space{min(s.Bytes, o.Bytes), min(s.Files, o.Files)} }

// meter measures what users' files take. Every user that is due has a slice of time, again and again until all of its files
// are counted: nobody's keep another's from being measured.
type meter struct {
	pool *Pool

	mu       sync.Mutex                 // one round at a time; guards the following
	due      map[*user][]string         // with their workspaces
	underway map[*user]*confine.Walk    // of those who are due
	held     map[*user]confine.Unlinked // of those who are due, by their processes
	least    *Space                     // that was used of the disk since all running processes were measured
}

func newMeter(p *Pool) *meter {
	return &meter{pool: p, due: make(map[*user][]string), underway: make(map[*user]*confine.Walk)}
}

// watchSpace ends processes that fill their user's workspaces beyond the quota.
func (p *Pool) watchSpace() {
	defer p.meter.close()
	p.everyQuotaInterval(p.meter.round)
}

// watchDisk has files give way where the disk is short. To remove them takes its time, which nobody's measuring waits for.
func (p *Pool) watchDisk() { p.everyQuotaInterval(p.makeRoom) }

func (p *Pool) everyQuotaInterval(do func()) {
	tick := time.NewTicker(p.tuning.quotaInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// round measures every user that had a turn since the last time, and those with a running process unless so little was
// written on the whole disk that it can't matter. They take turns until half of the time to the next round is over.
func (m *meter) round() {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pool
	p.addDue(m.due, m.hasGrown())
	m.held = p.heldBy(m.due)
	for until := time.Now().Add(p.tuning.quotaInterval / 2); len(m.due) > 0; {
		m.pass()
		if time.Now().After(until) {
			return
		}
	}
}

// pass gives each user that is due its slice of time.
func (m *meter) pass() {
	p := m.pool
	for u, dirs := range m.due {
		w := m.underway[u]
		if w == nil {
			w = confine.NewWalk(p.tooMuch().Files, dirs...)
		}
		switch {
		case w.Go(time.Now().Add(p.tuning.quotaSlice)):
			delete(m.due, u)
			delete(m.underway, u)
			p.judge(u, w, m.held[u])
		case m.underway[u] == nil && len(m.underway) == mostUnderway:
			w.Close() // to begin anew
		default:
			m.underway[u] = w
		}
	}
}

// hasGrown reports whether so much was written that running processes have to be measured.
func (m *meter) hasGrown() bool {
	p := m.pool
	d, err := p.tuning.disk(p.opts.Workspaces)
	if err != nil || d.total.Files == 0 { // it can't be told
		return true
	}
	used := d.total.minus(d.free)
	if m.least != nil {
		if *m.least = m.least.atMost(used); used.minus(*m.least).within(p.opts.Quota.part(unnoticed)) {
			return false
		}
	}
	m.least = &used
	return true
}

func (m *meter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.underway {
		w.Close()
	}
	clear(m.underway)
}

// tooMuch is what a user must not go beyond in any case: who does is refused.
func (p *Pool) tooMuch() Space { return p.opts.Quota.plus(p.opts.Quota) }

// heldBy is what the processes of users hold of the disk beside the files in their workspaces.
func (p *Pool) heldBy(users map[*user][]string) map[*user]confine.Unlinked {
	var owners []*user
	var procs []*cli.Process
	for _, c := range p.processes() {
		if _, is := users[c.c.user]; is {
			owners, procs = append(owners, c.c.user), append(procs, c.process)
		}
	}
	held, err := cli.Unlinked(procs...)
	if err != nil {
		p.opts.Logger.Error("what processes hold of the disk can't be told", "error", err)
		return nil
	}
	of := make(map[*user]confine.Unlinked)
	for i, u := range owners {
		of[u] = confine.Unlinked{Bytes: of[u].Bytes + held[i].Bytes, TooMany: of[u].TooMany || held[i].TooMany}
	}
	return of
}

// judge ends what runs of a user that has too much. A user may have as much as the quota says, or as much as there was the
// last time, so that one who has too much can still clean up. What is too deep to be measured is as good as far too much.
// What only processes hold goes with them, and is held against nobody later.
func (p *Pool) judge(u *user, w *confine.Walk, held confine.Unlinked) {
	total := Space{w.Bytes, w.Files}
	if w.TooDeep {
		total = total.atLeast(p.tooMuch().plus(Space{1, 1}))
	}
	before := u.setMeasured(total)
	total.Bytes += held.Bytes
	if !held.TooMany && total.within(before.atLeast(p.opts.Quota).atMost(p.tooMuch())) {
		return
	}
	p.opts.Logger.Warn("a user's workspaces are over their quota", "user", api.ShortUser(u.id), "bytes", w.Bytes,
		"files", w.Files, "too_deep", w.TooDeep, "held", held.Bytes, "too_many_open", held.TooMany)
	for _, c := range p.processes() {
		if c.user != u.id {
			continue
		}
		c.process.Abort(errQuota)
		if s := c.c.takeWith(c.process); s != nil { // nobody uses it, but what it has started may write
			p.goes(s.endIdle)
		}
	}
}

// full refuses a user who has far too much.
func (u *user) full() error {
	p := u.pool
	if u.measured().within(p.tooMuch()) {
		return nil
	}
	return api.Invalid("this user's workspaces hold more than twice what they may, %d bytes and %d files, or more than %d levels of folders",
		p.opts.Quota.Bytes, p.opts.Quota.Files, confine.MaxDepth)
}
