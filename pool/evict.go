package pool

import "claudepool/pool/api"

// evictFiles has the files give way that were used longest ago: the user's, or with nil anybody's. It reports whether there
// were any that nobody uses. What the archive has all of comes back from there; another conversation is forgotten, and
// begins anew when somebody asks for it.
func (p *Pool) evictFiles(of *user) bool {
	s := p.takeLongestUnused(of)
	if s == nil {
		return false
	}
	if s.process != nil {
		s.end()
	}
	if err := s.removeWorkspace(); err != nil { // what is left of them is nobody's any more
		p.opts.Logger.Warn("files that give way could not be removed", "user", api.ShortUser(s.user.id), "error", err)
	}
	s.withoutFiles()
	p.opts.Logger.Info("a conversation's files gave way to another's", "user", api.ShortUser(s.user.id))
	s.yield()
	p.goes(s.user.settle)
	return true
}
