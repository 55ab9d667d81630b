package api

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

const (
	// smallBody is up to what size bodies have a reserve of their own, which no large one can take from them.
	smallBody = 256 << 10
	// largeShare and smallShare are which parts of the memory there is bodies may take: what is made of one can be
	// three times as large as it is.
	largeShare, smallShare = 8, 32
	// noRoomRetry is after how long a body that found no room may find some.
	noRoomRetry = 2 * time.Second
	// leastRate is how many bytes a second a body has to come with, after a grace.
	leastRate   = 16 << 10
	bodyGrace   = 10 * time.Second
	firstBuffer = 4 << 10
	// largeRate is how many bytes a second of all large bodies together are taken beyond one of the largest. One of 32 MiB
	// costs a processor a sixth of a second from here to where it is answered, which the small ones of others would wait
	// for.
	largeRate = 32 << 20
)

// Intake reads bodies within bounds: of each, of all together, and of how slowly one may come. Its methods may be
// called concurrently.
type Intake struct {
	max          int64 // bytes of one body
	small, large *semaphore.Weighted
	decoding     *semaphore.Weighted // large bodies
	pace         *rate.Limiter       // bytes of large bodies
}

// NewIntake returns an Intake for bodies of at most largest bytes on a machine with so many bytes of memory. One of the
// largest always finds room where there is no other.
func NewIntake(largest int64, memory uint64) *Intake {
	share := func(part uint64, least int64) *semaphore.Weighted {
		return semaphore.NewWeighted(max(int64(memory/part), least)) // #nosec G115 -- a part of a machine's memory
	}
	return &Intake{max: largest, small: share(smallShare, 16*smallBody), large: share(largeShare, largest+1),
		decoding: semaphore.NewWeighted(1), pace: rate.NewLimiter(largeRate, int(largest)+1)}
}

// Body is a request body that counts as held until it is released. Bytes is for one goroutine.
type Body struct {
	Bytes []byte

	intake *Intake
	mu     sync.Mutex // guards the following
	from   *semaphore.Weighted
	held   int64
}

// Decode decodes the body. Of large ones it is one after the other, each of which takes a processor for up to half a
// second: the small ones of others find one meanwhile. The error is decode's, or ctx's cause.
func (b *Body) Decode(ctx context.Context, decode func([]byte) (*Request, error)) (*Request, error) {
	isLarge := len(b.Bytes) > smallBody
	if isLarge {
		if b.intake.decoding.Acquire(ctx, 1) != nil {
			return nil, context.Cause(ctx)
		}
		defer b.intake.decoding.Release(1)
	}
	req, err := decode(b.Bytes)
	if req != nil {
		req.IsLarge = isLarge
	}
	return req, err
}

// Release drops the body and gives its room back. It may be called more than once, and on nil.
func (b *Body) Release() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held > 0 {
		b.from.Release(b.held)
	}
	b.held, b.Bytes = 0, nil
}

// Read reads a body, of which the sender has said that it has so many bytes (-1: nothing), and sets the deadline of
// each read; nil is for senders that can be relied on. The error is an *Error: 400, 408, 413 or 429.
func (i *Intake) Read(r io.Reader, length int64, deadline func(time.Time)) (*Body, error) {
	if length > i.max {
		return nil, i.tooLarge()
	}
	b := &Body{intake: i}
	if err := b.fill(r, length, deadline); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

func (i *Intake) tooLarge() error { return TooLarge("the body is larger than %d bytes", i.max) }

func (b *Body) fill(r io.Reader, length int64, deadline func(time.Time)) error {
	began := time.Now()
	for {
		if len(b.Bytes) == cap(b.Bytes) {
			if err := b.grow(length, deadline == nil); err != nil {
				return err
			}
		}
		if deadline != nil {
			late := time.Duration(len(b.Bytes)) * time.Second / leastRate
			deadline(began.Add(bodyGrace + late))
		}
		n, err := r.Read(b.Bytes[len(b.Bytes):cap(b.Bytes)])
		b.Bytes = b.Bytes[:len(b.Bytes)+n]
		if len(b.Bytes) > smallBody {
			time.Sleep(b.intake.pace.ReserveN(time.Now(), n).Delay())
		}
		switch {
		case int64(len(b.Bytes)) > b.intake.max:
			return b.intake.tooLarge()
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return TimedOut("the body came too slowly")
		case err != nil:
			return Invalid("the body could not be read")
		}
	}
}

// grow makes room for more of the body, or for all of one whose length was said, if it is small or the sender can be
// relied on: a length is soon said.
func (b *Body) grow(length int64, reliable bool) error {
	next := max(2*int64(cap(b.Bytes)), firstBuffer)
	if cap(b.Bytes) == 0 && length >= 0 && (reliable || length < smallBody) {
		next = length + 1 // with room to see the end
	}
	next = min(next, b.intake.max+1)
	if !b.charge(next) {
		return RateLimited(noRoomRetry, "too many large requests are being read, try again")
	}
	bytes := make([]byte, len(b.Bytes), next)
	copy(bytes, b.Bytes)
	b.Bytes = bytes
	return nil
}

// charge has the body hold so many bytes in all. A large one is charged to what large ones have, from its first byte
// on; a small one too, where small ones have no more.
func (b *Body) charge(bytes int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	small := bytes <= smallBody && b.from != b.intake.large
	return small && b.moveLocked(b.intake.small, bytes) || b.moveLocked(b.intake.large, bytes)
}

func (b *Body) moveLocked(to *semaphore.Weighted, bytes int64) bool {
	if to == b.from {
		if !to.TryAcquire(bytes - b.held) {
			return false
		}
		b.held = bytes
		return true
	}
	if !to.TryAcquire(bytes) {
		return false
	}
	if b.held > 0 {
		b.from.Release(b.held)
	}
	b.from, b.held = to, bytes
	return true
}
