package pool

import (
	"sync"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
	"claudepool/pool/workspace"
)

// unmeasuredPart is which part of one user's quota all running processes together may write until they are measured.
const unmeasuredPart = 16

// quota measures what users' files take and enforces the limits.
type quota struct {
	pool  *Pool
	limit workspace.Space // of one user

	mu     sync.Mutex // one round at a time; guards the following
	meter  *workspace.Meter[*user]
	growth workspace.Growth // since all running processes were measured
}

func newQuota(p *Pool) *quota {
	q := &quota{pool: p, limit: p.opts.Quota}
	q.meter = workspace.NewMeter[*user](p.tuning.quotaSlice, q.hardLimit().Files)
	return q
}

// hardLimit is twice the quota: requests of a user beyond it are refused.
func (q *quota) hardLimit() workspace.Space { return q.limit.Plus(q.limit) }

// watchUsers ends processes that fill their user's workspaces beyond the quota.
func (q *quota) watchUsers() {
	defer q.close()
	q.everyInterval(q.round)
}

// watchDisk has files give way where the disk is short. To remove them takes its time, which nobody's measuring waits
// for.
func (q *quota) watchDisk() { q.everyInterval(q.makeRoom) }

func (q *quota) everyInterval(do func()) {
	tick := time.NewTicker(q.pool.tuning.quotaInterval)
	defer tick.Stop()
	for {
		select {
		case <-q.pool.life.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// round measures every user that had a turn since the last time, and those with a running process unless so little was
// written on the whole disk that it can't matter. They take turns until half of the time to the next round is over.
func (q *quota) round() {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.pool
	q.addDue(q.hasGrown())
	held := q.held()
	q.meter.Run(p.tuning.quotaInterval/2, func(u *user, total workspace.Total) { q.judge(u, total, held[u]) })
}

// addDue adds the users whose files may have changed since they were last added and measured: those who had a turn,
// and with running those who have a process that isn't frozen.
func (q *quota) addDue(running bool) {
	p := q.pool
	changed := p.spaces.takeChanged()
	if running {
		for _, c := range p.table.processes() {
			if !c.process.Frozen() && !q.meter.IsDue(c.c.user) {
				changed[c.c.user] = true
			}
		}
	}
	for u := range changed {
		folders, busy := u.folders()
		if busy || q.meter.IsDue(u) {
			p.spaces.mark(u) // for the next time
		}
		if !q.meter.IsDue(u) {
			q.meter.Add(u, folders)
		}
	}
}

// hasGrown reports whether so much was written that running processes have to be measured.
func (q *quota) hasGrown() bool {
	disk, err := q.pool.tuning.disk(q.pool.opts.Workspaces)
	return err != nil || q.growth.Exceeds(q.limit.Part(unmeasuredPart), disk)
}

func (q *quota) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.meter.Close()
}

// held is what the processes of those who are due hold of the disk beside the files in their workspaces.
func (q *quota) held() map[*user]confine.Unlinked {
	var owners []*user
	var procs []*cli.Process
	for _, c := range q.pool.table.processes() {
		if q.meter.IsDue(c.c.user) {
			owners, procs = append(owners, c.c.user), append(procs, c.process)
		}
	}
	held, err := cli.Unlinked(procs...)
	if err != nil {
		q.pool.opts.Logger.Error("what processes hold of the disk can't be told", "error", err)
		return nil
	}
	of := make(map[*user]confine.Unlinked)
	for i, u := range owners {
		of[u] = confine.Unlinked{Bytes: of[u].Bytes + held[i].Bytes, TooMany: of[u].TooMany || held[i].TooMany}
	}
	return of
}

// judge ends what runs of a user that has too much. A user may have as much as the quota says, or as much as there was
// the last time, so that one who has too much can still clean up. What is too deep to be measured is as good as far too
// much. What only processes hold goes with them, and is held against nobody later.
func (q *quota) judge(u *user, measured workspace.Total, held confine.Unlinked) {
	p, total := q.pool, measured.Space
	if measured.TooDeep {
		total = total.Max(q.hardLimit().Plus(workspace.Space{Bytes: 1, Files: 1}))
	}
	before := p.spaces.set(u, total)
	total.Bytes += held.Bytes
	if !held.TooMany && total.Within(before.Max(q.limit).Min(q.hardLimit())) {
		return
	}
	p.opts.Logger.Warn("a user's workspaces are over their quota", "user", api.ShortUser(u.id), "bytes", measured.Bytes,
		"files", measured.Files, "too_deep", measured.TooDeep, "held", held.Bytes, "too_many_open", held.TooMany)
	for _, c := range p.table.processes() {
		if c.user != u.id {
			continue
		}
		c.process.Abort(errQuota)
		if s := c.c.takeWith(c.process); s != nil { // nobody uses it, but what it has started may write
			p.work.Go(s.endIdle)
		}
	}
}

// full refuses a user who has far too much.
func (u *user) full() error {
	q := u.pool.quota
	if u.pool.spaces.get(u).Within(q.hardLimit()) {
		return nil
	}
	return api.Invalid("this user's workspaces hold more than twice what they may, %d bytes and %d files, "+
		"or more than %d levels of folders", q.limit.Bytes, q.limit.Files, confine.MaxDepth)
}
