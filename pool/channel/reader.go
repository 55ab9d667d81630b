package channel

import (
	"context"
	"time"
)

// batchBytes is about how much a reader is given at a time.
const batchBytes = 256 << 10

// truncated tells a reader that there were events between what it has and what follows.
var truncated = namedFrame("catch_up_truncated", []byte("{}"))

// Reader follows a log. It has nothing of its own but its place: one that is slow loses that, and nothing else happens.
// Its methods are for one goroutine.
type Reader struct {
	log    *Log
	number int64 // of the event it needs next
	at     int64 // place of the entry it needs next
	live   int64 // from this place on it gets partial events
	lost   bool  // it is to be told that events are missing
	until  int64 // place from which on it gets nothing more; negative: there is none
}

// Read begins to read behind the event of a number, or with 0 at the first event that is kept. The reader has to be
// closed. The error is ErrManyReaders or ErrEnded.
func (l *Log) Read(after int64) (*Reader, error) {
	s := l.of
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.ended:
		return nil, ErrEnded
	case s.readers[l.user] >= readersOfUser:
		return nil, ErrManyReaders
	}
	s.readers[l.user]++
	l.readers++
	r := &Reader{log: l, number: after + 1, live: l.at, until: -1}
	if after == 0 {
		r.number = l.first
	}
	if r.number < l.first || r.number > l.next {
		r.number, r.lost = l.first, true
	}
	return r, nil
}

// Close gives the reader's place up.
func (r *Reader) Close() {
	s := r.log.of
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.log.readers--; r.log.readers == 0 {
		r.log.left = time.Now()
	}
	if s.readers[r.log.user]--; s.readers[r.log.user] == 0 {
		delete(s.readers, r.log.user)
	}
}

// Dismiss has the reader be given what there is now, and then ErrDismissed. It may be called by another goroutine.
func (r *Reader) Dismiss() {
	r.log.of.mu.Lock()
	defer r.log.of.mu.Unlock()
	if r.until < 0 {
		r.until = r.log.at
	}
	r.log.wakeLocked()
}

// Next waits for what comes next and returns it as server-sent events, or nothing if there is none for so long. They
// are not to be changed. The error is ErrEnded, ErrDismissed or ctx's cause.
func (r *Reader) Next(ctx context.Context, patience time.Duration) (frames [][]byte, err error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		frames, changed, err := r.take()
		if len(frames) > 0 || err != nil {
			return frames, err
		}
		select {
		case <-changed:
		case <-timeout.C:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take takes what there is. If that is nothing, changed is closed when there may be something.
func (r *Reader) take() (frames [][]byte, changed chan struct{}, err error) {
	l := r.log
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	if l.ended {
		return nil, nil, ErrEnded
	}
	frames = r.batchLocked()
	if len(frames) == 0 && r.until >= 0 {
		return nil, nil, ErrDismissed
	}
	if len(frames) == 0 {
		l.waiting++
	}
	return frames, l.changed, nil
}

// batchLocked merges kept and partial events by their places.
func (r *Reader) batchLocked() (frames [][]byte) {
	l := r.log
	kept, partial := l.kept.from(r.at), l.partial.from(max(r.at, r.live))
	for len(kept) > 0 && kept[0].number < r.number {
		kept = kept[min(len(kept), int(r.number-kept[0].number)):] // it has them: numbers rise by one
	}
	first := l.next
	if len(kept) > 0 {
		first = kept[0].number
	}
	if first > r.number || r.lost {
		r.number, r.lost = first, false
		frames = append(frames, truncated)
	}
	for size := 0; size < batchBytes && len(kept)+len(partial) > 0; {
		next := &kept
		if len(kept) == 0 || len(partial) > 0 && partial[0].at < kept[0].at {
			next = &partial
		}
		e := (*next)[0]
		if r.until >= 0 && e.at >= r.until {
			break
		}
		*next = (*next)[1:]
		r.at = e.at + 1
		if e.number != 0 {
			r.number = e.number + 1
		}
		frames = append(frames, e.frame)
		size += len(e.frame)
	}
	return frames
}
