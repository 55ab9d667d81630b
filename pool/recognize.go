package pool

import "claudepool/pool/api"

// fits reports whether the conversation still is the one the request is meant for: a turn that went before may have
// moved it on.
func (s *slot) fits(req *api.Request) bool {
	if s.removed || req.SessionID != "" || len(req.Messages) == 1 {
		return !s.removed
	}
	_, found := s.reading(req)
	return found
}

// reading is what the request asks of this conversation, and whether what it says was said before was said here.
func (s *slot) reading(req *api.Request) (reading api.Reading, found bool) {
	readings := req.Readings()
	for _, r := range readings {
		_, now := s.digests.Way(r.History.Now)
		_, loose := s.digests.Way(r.History.Loose)
		_, former := s.digests.Way(r.History.Former)
		if now || loose || former {
			return r, true
		}
	}
	return readings[len(readings)-1], false
}
