package pool

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"sync"
	"time"

	"claudepool/pool/api"
)

const (
	// replayBytes is how much of a turn's stream is kept for a client that lost its connection.
	replayBytes = 4 << 20
	// replayKeep is for how long after its end, and endedBytes how much of all ended turns together.
	replayKeep = time.Minute
	endedBytes = 64 << 20
)

var (
	errGap       = api.NotFound("the events after this one are not kept any more")
	errLost      = api.BadGateway("events were lost, as they were read too slowly")
	errDisplaced = api.Unavailable(time.Second, "another request has taken this stream up")
)

// replay is the stream of a turn that goes on whether its client is there or not. One request at a time reads it, from
// any event on that is still kept; the last one to come displaces the one before.
type replay struct {
	id      string
	user    [32]byte // digest of the token
	receipt api.Receipt

	mu      sync.Mutex    // guards the following
	changed chan struct{} // closed, and replaced, when any of it has changed
	lines   [][]byte
	first   int // number of the first line that is kept
	size    int
	reader  *reader // nil: nobody is there
	ended   bool
	err     error // how it ended
}

// reader is a request that reads a replay. All is guarded by the replay's mu.
type reader struct{ next int } // number of the line it needs next

func newReplay(user [32]byte, receipt api.Receipt) *replay {
	return &replay{id: rand.Text(), user: user, receipt: receipt, changed: make(chan struct{}), first: 1}
}

func (r *replay) changeLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// add keeps lines. A reader who is slow but there is waited for, until ctx ends; else the oldest lines give way.
func (r *replay) add(ctx context.Context, lines [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range lines {
		for r.size > 0 && r.size+len(line) > replayBytes {
			if r.reader != nil && r.reader.next <= r.first && ctx.Err() == nil {
				r.waitLocked(ctx)
				continue
			}
			r.size -= len(r.lines[0])
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
	r.changeLocked()
	return r.reader, nil
}

func (r *replay) detach(me *reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reader == me {
		r.reader = nil
		r.changeLocked()
	}
}

// pass hands the stream over until its end, whose error it returns, or until the caller is displaced or gone.
func (r *replay) pass(ctx context.Context, me *reader, to *stream) error {
	defer r.detach(me)
	for {
		lines, from, err := r.take(ctx, me)
		if err != nil || lines == nil {
			return err
		}
		if err := to.numbered(ctx, from, lines); err != nil {
			return err
		}
	}
}

// take waits for lines that me hasn't got, and returns them with the number of the first. None is the end.
func (r *replay) take(ctx context.Context, me *reader) (lines [][]byte, from int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch end := r.first + len(r.lines); {
		case ctx.Err() != nil:
			return nil, 0, context.Cause(ctx)
		case r.reader != me:
			return nil, 0, errDisplaced
		case me.next < r.first:
			return nil, 0, errLost
		case me.next < end:
			from, me.next = me.next, end
			r.changeLocked()
			return append([][]byte(nil), r.lines[from-r.first:]...), from, nil
		case r.ended:
			return nil, 0, r.err
		}
		r.waitLocked(ctx)
	}
}

// replays are the turns of an instance that can be taken up again.
type replays struct {
	mu    sync.Mutex // guards the following
	turns map[string]*replay
	ended []*replay // those that have, oldest first
	kept  int       // bytes of them
}

func newReplays() *replays { return &replays{turns: make(map[string]*replay)} }

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
	s.ended = append(s.ended, r)
	s.kept += r.size
	for s.kept > endedBytes {
		s.dropOldestLocked()
	}
	time.AfterFunc(replayKeep, func() { s.expire(r) })
}

// expire drops a turn and all that ended before it.
func (s *replays) expire(r *replay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.turns[r.id] != nil {
		s.dropOldestLocked()
	}
}

func (s *replays) dropOldestLocked() {
	oldest := s.ended[0]
	s.ended = s.ended[1:]
	s.kept -= oldest.size
	delete(s.turns, oldest.id)
}

// finishing runs the turn to its end whether the client stays or not, and hands its stream over while it does.
func (s *Server) finishing(ctx context.Context, h *Handle, out *stream) error {
	r := newReplay(h.req.UserDigest(), out.receiptOf(h))
	me, err := r.attach(0) // before anybody can know of it: who takes it up displaces this reader, never the reverse
	if err != nil {
		return err // never: nothing has come yet
	}
	s.replays.add(r)
	out.turn = r.id
	out.open(r.receipt)
	s.pool.goes(func() {
		defer h.Release()
		s.replays.finish(r, h.Turn(context.WithoutCancel(ctx), func() {}, r.add))
	})
	return r.pass(ctx, me, out)
}

// resume hands over the rest of a stream whose client lost its connection.
func (s *Server) resume(ctx context.Context, user [32]byte, lastEvent string, out *stream) error {
	id, after, err := api.ParseEventID(lastEvent)
	if err != nil {
		return err
	}
	r := s.replays.find(id, user)
	if r == nil {
		return api.NotFound("no such turn is kept here")
	}
	me, err := r.attach(after)
	if err != nil {
		return err
	}
	out.turn = r.id
	out.open(r.receipt)
	return r.pass(ctx, me, out)
}
