package pool

import (
	"claudepool/pool/api"
	"claudepool/pool/workspace"
)

// mostAtOnce bounds how many conversations' files give way in one round where the disk is short: some file systems tell
// only later what has become free.
const mostAtOnce = 16

// evictFiles has the files give way that were used longest ago: the user's, or with nil anybody's. It reports whether
// there were any that nobody uses.
func (p *Pool) evictFiles(of *user) bool { return p.evict(p.takeLongestUnused(of)) }

// evict removes the files of a conversation, unless it is nil. What the archive has all of comes back from there;
// another conversation is forgotten, and begins anew when somebody asks for it.
func (p *Pool) evict(s *slot) bool {
	if s == nil {
		return false
	}
	if s.process != nil && s.end() != nil {
		s.yield()
		return true // perhaps others can
	}
	if err := s.removeWorkspace(); err != nil { // what is left of them is nobody's any more
		p.opts.Logger.Warn("files that give way could not be removed", "user", api.ShortUser(s.user.id), "error", err)
	}
	s.withoutFiles()
	p.opts.Logger.Info("a conversation's files gave way to another's", "user", api.ShortUser(s.user.id))
	s.yield()
	p.work.Go(s.user.releaseIfUnused)
	return true
}

// makeRoom has files give way while too little of the disk is free. While nothing can give way, no conversation begins.
func (q *quota) makeRoom() {
	p, full := q.pool, false
	for range mostAtOnce {
		disk, err := p.tuning.disk(p.opts.Workspaces)
		if err != nil {
			p.opts.Logger.Error("the disk's room can't be told", "error", err)
			break
		}
		missing := disk.Missing()
		if missing == (workspace.Space{}) {
			break
		}
		if p.evict(p.takeOfTooLarge()) {
			continue
		}
		if !missing.Within(p.measured()) {
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

// evictForRoom has the files of the unproven user give way who has most, else those used longest ago.
func (p *Pool) evictForRoom() bool { return p.evict(p.takeOfUnproven()) || p.evictFiles(nil) }
