package pool

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"claudepool/pool/workspace"
)

// spaces is what users' files took when they were measured last, and whose may have changed since. Its methods may be
// called concurrently.
type spaces struct {
	mu      sync.Mutex                // guards the following
	of      map[*user]workspace.Space // of users who have files, or may have some by now
	changed map[*user]bool
}

func newSpaces() *spaces {
	return &spaces{of: make(map[*user]workspace.Space), changed: make(map[*user]bool)}
}

// mark says that the user's files may have changed.
func (s *spaces) mark(u *user) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed[u] = true
	if _, isMeasured := s.of[u]; !isMeasured {
		s.of[u] = workspace.Space{} // but it may have files, too
	}
}

// takeChanged returns the users whose files may have changed, and marks none any more.
func (s *spaces) takeChanged() map[*user]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := s.changed
	s.changed = make(map[*user]bool)
	return changed
}

// set notes what the user's files take, and returns what they took before.
func (s *spaces) set(u *user, now workspace.Space) (before workspace.Space) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.of[u]
	if s.of[u] = now; now == (workspace.Space{}) && !s.changed[u] {
		delete(s.of, u)
	}
	return before
}

// get is what the user's files took.
func (s *spaces) get(u *user) workspace.Space {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[u]
}

// total is what all users' files took.
func (s *spaces) total() (sum workspace.Space) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, space := range s.of {
		sum = sum.Plus(space)
	}
	return sum
}

// largestFirst returns such users who have files, in the order of how much they have.
func (s *spaces) largestFirst(such func(*user, workspace.Space) bool) []*user {
	s.mu.Lock()
	of := maps.Clone(s.of)
	s.mu.Unlock()
	maps.DeleteFunc(of, func(u *user, space workspace.Space) bool { return !such(u, space) })
	return slices.SortedFunc(maps.Keys(of), func(a, b *user) int { return cmp.Compare(of[b].Bytes, of[a].Bytes) })
}
