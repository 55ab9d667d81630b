// Package channel keeps what conversations' channels have to tell: an event log of each, that several readers follow
// from wherever they left off. It knows neither who reads nor what writes.
package channel

import (
	"container/list"
	"errors"
	"sync"
	"time"
)

var (
	// ErrFull says that all logs together take what they may, and that none of them can give way.
	ErrFull = errors.New("channel: no room for another log")
	// ErrManyReaders says that the log's user has as many readers as a user may have.
	ErrManyReaders = errors.New("channel: too many readers")
	// ErrEnded says that the log has ended.
	ErrEnded = errors.New("channel: the log has ended")
	// ErrDismissed says that a reader has read all it was to read.
	ErrDismissed = errors.New("channel: the reader is dismissed")
)

const (
	// logBytes is how much of one log is kept, and partialBytes how much of its partial events, which a slow reader can do
	// without.
	logBytes     = 16 << 20
	partialBytes = 256 << 10
	// keepFor is for how long an event is kept, and keepPartial a partial one.
	keepFor     = time.Hour
	keepPartial = time.Minute
	// readersOfUser is how many readers a user may have at a time.
	readersOfUser = 16
	// eventCost and logCost are what an event takes beside its bytes, and a log beside its events.
	eventCost, logCost = 128, 2 << 10
)

// User is a user's digest.
type User [32]byte

// Logs are the logs of an instance. Its methods, and those of logs and readers, may be called concurrently.
type Logs struct {
	most int64 // bytes

	mu      sync.Mutex // guards the following, and all that logs and readers have
	size    int64
	lines   *list.List   // of logs that have something, the one that was written to longest ago first
	readers map[User]int // by user
}

// New returns logs that take so many bytes in all.
func New(most int64) *Logs {
	return &Logs{most: most, lines: list.New(), readers: make(map[User]int)}
}

// Begin begins a log of the user's, which has to be ended. Its numbers are above those of all logs that were begun
// before it, on whatever instance, as long as clocks agree about which that was.
func (s *Logs) Begin(user User) (*Log, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size+logCost > s.most && !s.makeRoomLocked(logCost) {
		return nil, ErrFull
	}
	first := time.Now().UnixMicro() // below 2^53 for 250 years, and no log has an event every microsecond
	l := &Log{of: s, user: user, first: first, next: first, changed: make(chan struct{}), left: time.Now()}
	s.size += logCost
	return l, nil
}

// Expire drops what has been kept for long enough.
func (s *Logs) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for e := s.lines.Front(); e != nil; {
		l := e.Value.(*Log)
		e = e.Next() // before it leaves the list
		l.expireLocked(now)
	}
}

// Size is how many bytes all logs take.
func (s *Logs) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// makeRoomLocked drops the oldest events of the logs that were written to longest ago, until there is room for so many
// bytes. It reports whether there is.
func (s *Logs) makeRoomLocked(bytes int64) bool {
	for e := s.lines.Front(); e != nil && s.size+bytes > s.most; e = s.lines.Front() {
		l := e.Value.(*Log)
		for s.size+bytes > s.most && (l.partial.drop() || l.kept.drop()) {
			l.countLocked()
		}
	}
	return s.size+bytes <= s.most
}
