package server

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"maps"
	"slices"
	"sync"
	"time"

	"claudepool/pool/api"
)

var (
	errGap       = api.NotFound("the events after this one are not kept any more")
	errLost      = api.BadGateway("events were lost, as they were read too slowly")
	errDisplaced = api.Unavailable(time.Second, "another request has taken this stream up")
)

// replay is the stream of a turn that goes on whether its client is there or not. One request at a time reads it, from
// any event on that is still kept; the last one to come displaces the one before, unless the stream is shared.
type replay struct {
	id       string
	user     [32]byte // digest of the token
	maxBytes int      // bytes that are kept

	isShared bool // many may read it at a time, of whom the last to come is waited for
	away     away

	mu      sync.Mutex    // guards the following
	changed chan struct{} // closed, and replaced, when any of it has changed
	receipt *api.Receipt  // nil until the turn's message has been sent; another one when another process has it
	lines   [][]byte
	first   int // number of the first line that is kept
	size    int
	reader  *reader // the last to come; nil: it has left
	readers int     // that are there
	ended   bool
	err     error // how it ended
}

// reader is a request that reads a replay. All is guarded by the replay's mu.
type reader struct {
	next    int          // number of the line it needs next
	receipt *api.Receipt // the last one it was told
}

func newReplay(user [32]byte, most int) *replay {
	return &replay{id: rand.Text(), user: user, maxBytes: most, changed: make(chan struct{}), first: 1}
}

func (r *replay) changeLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// update says how the turn has gone, if its process is known.
func (r *replay) update(receipt api.Receipt) {
	r.mu.Lock()
	known := r.receipt != nil
	r.mu.Unlock()
	if known {
		r.begin(receipt)
	}
}

// begin says which process has the turn.
func (r *replay) begin(receipt api.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.receipt = &receipt
	r.changeLocked()
}

// add keeps lines. A reader who is slow but there is waited for, until ctx ends; else the oldest lines give way.
func (r *replay) add(ctx context.Context, lines [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range lines {
		for r.size > 0 && r.size+len(line) > r.maxBytes {
			if r.reader != nil && r.reader.next <= r.first && ctx.Err() == nil {
				r.changeLocked() // it may not know of the lines above
				r.waitLocked(ctx)
				continue
			}
			r.size -= len(r.lines[0])
			r.lines[0] = nil // the array may stay
			r.lines, r.first = r.lines[1:], r.first+1
		}
		r.lines = append(r.lines, line)
		r.size += len(line)
	}
	r.changeLocked()
	return nil
}

// waitLocked waits for a change, without the lock.
func (r *replay) waitLocked(ctx context.Context) {
	changed := r.changed
	r.mu.Unlock()
	select {
	case <-changed:
	case <-ctx.Done():
	}
	r.mu.Lock()
}

// end says that no more lines will come.
func (r *replay) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended, r.err = true, err
	r.away.over()
	r.changeLocked()
}

// attach makes the caller the reader, of what follows the event numbered after.
func (r *replay) attach(after int) (*reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if after+1 < r.first || after >= r.first+len(r.lines) {
		return nil, errGap
	}
	r.reader = &reader{next: after + 1}
	r.readers++
	r.away.returned()
	r.changeLocked()
	return r.reader, nil
}

// isWhole reports whether the stream is kept from its first line on.
func (r *replay) isWhole() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first == 1
}

// bytes is how many are kept.
func (r *replay) bytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size
}

func (r *replay) detach(me *reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readers--; r.readers == 0 {
		r.away.left()
	}
	if r.reader == me {
		r.reader = nil
		r.changeLocked()
	}
}

// copyTo hands the stream over until its end, whose error it returns, or until the caller is displaced or gone. It is
// opened when the turn's message has been sent.
func (r *replay) copyTo(ctx context.Context, me *reader, to *stream) error {
	defer r.detach(me)
	to.resumable(r.id)
	for {
		part, err := r.next(ctx, me)
		switch {
		case err != nil || part.last:
			return err
		case part.receipt != nil:
			to.open(*part.receipt)
		default:
			if err := to.sendNumbered(ctx, part.from, part.lines); err != nil {
				return err
			}
		}
	}
}

// part is what a reader gets at a time: a receipt, lines with the number of the first, or the end.
type part struct {
	receipt *api.Receipt
	lines   [][]byte
	from    int
	last    bool
}

// next waits for the next part.
func (r *replay) next(ctx context.Context, me *reader) (part, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		end := r.first + len(r.lines)
		switch {
		case ctx.Err() != nil:
			return part{}, context.Cause(ctx)
		case r.reader != me && !r.isShared:
			return part{}, errDisplaced
		case me.receipt != r.receipt:
			me.receipt = r.receipt
			return part{receipt: r.receipt}, nil
		case me.next < r.first:
			return part{}, errLost
		case me.next < end:
			from := me.next
			me.next = end
			r.changeLocked()
			return part{lines: append([][]byte(nil), r.lines[from-r.first:]...), from: from}, nil
		case r.ended:
			return part{last: true}, r.err
		}
		r.waitLocked(ctx)
	}
}

// replays are the turns of an instance that can be taken up again.
type replays struct {
	tuning tuning

	mu    sync.Mutex // guards the following
	turns map[string]*replay
	ended []*replay // those that have, oldest first
	kept  int       // bytes of them
}

func newReplays(t tuning) *replays { return &replays{tuning: t, turns: make(map[string]*replay)} }

func (s *replays) add(r *replay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turns[r.id] = r
}

// find returns a user's turn, or nil.
func (s *replays) find(id string, user [32]byte) *replay {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.turns[id]
	if r == nil || subtle.ConstantTimeCompare(r.user[:], user[:]) != 1 {
		return nil
	}
	return r
}

// finish ends a turn and keeps it for a while.
func (s *replays) finish(r *replay, err error) {
	r.end(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns[r.id] == nil {
		return // it was forgotten while it ran
	}
	s.ended = append(s.ended, r)
	s.kept += r.size
	for s.kept > s.tuning.endedBytes {
		s.dropOldestLocked()
	}
	id := r.id // the timer must not keep what is dropped before
	time.AfterFunc(s.tuning.replayKeep, func() { s.expire(id) })
}

// forget drops a user's turns. Those that still run have their readers and can't be taken up again.
func (s *replays) forget(user [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.turns, func(_ string, r *replay) bool { return r.user == user })
	s.ended = slices.DeleteFunc(s.ended, func(r *replay) bool {
		if r.user != user {
			return false
		}
		s.kept -= r.size
		return true
	})
}

// expire drops a turn and all that ended before it.
func (s *replays) expire(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.turns[id] != nil {
		s.dropOldestLocked()
	}
}

func (s *replays) dropOldestLocked() {
	oldest := s.ended[0]
	s.ended[0] = nil // the array may stay
	s.ended = s.ended[1:]
	s.kept -= oldest.size
	delete(s.turns, oldest.id)
}
