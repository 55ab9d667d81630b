package pool

import (
	"claudepool/pool/api"
	"claudepool/pool/workspace"
)

// maxEvicted bounds how many conversations' files give way in one round where the disk is short: some file systems tell
// only later what has become free.
const maxEvicted = 16

// takeOfLargest takes the slot of the longest unused conversation of the user with most in files, among such users.
func (p *Pool) takeOfLargest(such func(*user, workspace.Space) bool) *slot {
	for _, u := range p.spaces.largestFirst(such) {
		if s := u.takeLongestUnused(); s != nil {
			return s
		}
	}
	return nil
}

// evict removes the files of a conversation, unless it is nil, and reports whether it did. What the archive has all of
// comes back from there; another conversation is forgotten, and begins anew when somebody asks for it.
func (p *Pool) evict(s *slot) bool {
	if s == nil {
		return false
	}
	p.evictions.files.Add(1)
	if s.process != nil && s.end() != nil {
		s.yield()
		return true // perhaps others can
	}
	if err := s.removeWorkspace(); err != nil { // what is left of them is nobody's any more
		p.opts.Logger.Warn("files that give way could not be removed", "user", api.ShortUser(s.user.id), "error", err)
	}
	s.filesEvicted()
	p.spaces.mark(s.user)
	p.opts.Logger.Info("a conversation's files gave way to another's", "user", api.ShortUser(s.user.id))
	s.yield()
	p.work.Go(s.user.releaseIfUnused)
	return true
}

// makeRoom has files give way while too little of the disk is free. While nothing can give way, no conversation begins.
func (q *quota) makeRoom() {
	p, full := q.pool, false
	isTooLarge := func(_ *user, files workspace.Space) bool { return !files.Within(q.hardLimit()) }
	for range maxEvicted {
		disk, err := p.tuning.disk(p.opts.Workspaces)
		if err != nil {
			p.opts.Logger.Error("the disk's room can't be told", "error", err)
			break
		}
		missing := disk.Missing()
		if missing == (workspace.Space{}) {
			break
		}
		if p.evict(p.takeOfLargest(isTooLarge)) {
			continue
		}
		if !missing.Within(p.spaces.total()) {
			p.opts.Logger.Warn("the disk is short, not by what users have", "free_bytes", disk.Free.Bytes,
				"free_files", disk.Free.Files)
			break
		}
		if full = !p.evictForRoom(); full {
			p.opts.Logger.Error("no conversation can begin: the disk is short and all files are in use",
				"free_bytes", disk.Free.Bytes, "free_files", disk.Free.Files)
			break
		}
	}
	p.diskFull.Store(full)
}

// evictForRoom removes files of the unproven user who has most; where there is none, those used longest ago.
func (p *Pool) evictForRoom() bool {
	isUnproven := func(u *user, _ workspace.Space) bool { return u.isUnproven() }
	return p.evict(p.takeOfLargest(isUnproven)) || p.evict(p.table.takeLongestUnused())
}
