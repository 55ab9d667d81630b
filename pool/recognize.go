package pool

import "claudepool/pool/api"

// closest is the conversation that what was said before leads to by the fullest way, nil if several are. Those that
// have nothing but the history they began with are all alike: one of them is as good as another, if there is none that
// has more.
func closest(known map[*conversation]bool, d api.Digest) (found *conversation) {
	best, several := 0, false
	for c := range known {
		way, _ := c.digests.Way(d)
		switch {
		case found == nil || c.spoken && !found.spoken || c.spoken == found.spoken && way < best:
			found, best, several = c, way, false
		case c.spoken && found.spoken && way == best:
			several = true
		}
	}
	if several {
		return nil
	}
	return found
}

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
