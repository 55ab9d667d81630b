package server

import (
	"net/http"
	"time"
)

// What tests have to wait for.
var (
	QueueGrace   = production.queueGrace
	PingInterval = production.pingInterval
	ReplayKeep   = production.replayKeep
)

// Bounds that tests reach.
const (
	ReadersOfKey = readersOfKey
	LeftOfUser   = leftOfUser
	TalksOfUser  = talksOfUser
)

// LastWords is finalWriteTime.
const LastWords = finalWriteTime

// Tuning is what tests have otherwise. What is zero is as in production.
type Tuning struct {
	Silence                 time.Duration // before a stream is opened, and between pings
	ReplayBytes, EndedBytes int
}

// Tune gives a server another tuning than production's.
func Tune(opts *Options, other Tuning) {
	t := production
	if other.Silence > 0 {
		t.queueGrace, t.pingInterval = other.Silence, other.Silence
	}
	if other.ReplayBytes > 0 {
		t.replayBytes = other.ReplayBytes
	}
	if other.EndedBytes > 0 {
		t.endedBytes = other.EndedBytes
	}
	opts.tuning = &t
}

// Hurry hurries a response, before or after it is closed.
func Hurry(w http.ResponseWriter, closed bool) {
	s := newStream(w, "req_1", "i1", time.Minute)
	if closed {
		s.close()
	}
	s.limitWrite()
}

// LogBytes is what a server's channels take.
func LogBytes(s *Server) int64 { return s.channels.logs.Size() }

// Talks is how many channels there are.
func Talks(s *Server) (n int) {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	for _, of := range s.channels.talks {
		n += len(of)
	}
	return n
}
