package usage

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxBacklog is how many turns wait for a Redis that is away; of further ones the log tells.
	maxBacklog = 100_000
	retryPause = 500 * time.Millisecond
	callTime   = 2 * time.Second
	// movesKnown is for how long calls that were begun under a former token are counted for the present one, and maxMoves
	// how many such tokens are known.
	movesKnown = 5 * time.Minute
	maxMoves   = 1000
)

// Ledger writes down what turns took, in the order in which they are told and off their way. Its methods may be called
// concurrently.
type Ledger struct {
	redis Redis
	log   *slog.Logger
	id    string
	pause time.Duration

	more chan struct{} // buffered by one: there is something to be written

	mu      sync.Mutex    // guards the following
	queue   []entry       // to be written, the first one now
	last    int64         // number of the one that came last
	written int64         // and of the one that was written last
	news    chan struct{} // closed when that changes, or Redis fails
	failing bool          // Redis did not take the last one
	lost    int           // entries since the log was told
	moves   []move
}

// entry is what is written by one command.
type entry struct {
	number             int64
	day, user, subject string // the latter is a service key's, or empty
	sums               Sums
	former             string // not empty: this user's sums become the user's
}

type move struct {
	from, to string
	at       time.Time
}

// NewLedger returns a Ledger whose Run has to be called.
func NewLedger(client Redis, log *slog.Logger) *Ledger {
	id := make([]byte, 8)
	rand.Read(id)
	return &Ledger{redis: client, log: log, id: hex.EncodeToString(id), pause: retryPause, more: make(chan struct{}, 1),
		news: make(chan struct{})}
}

// Add takes down what a turn of the user took, and what of that came in by a service key; an empty one is none. It
// counts for today.
func (l *Ledger) Add(user, key string, sums Sums) {
	e := entry{day: Day(time.Now()), user: user, sums: sums}
	if key != "" {
		e.subject = OfKey(key)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.user = l.presentLocked(user)
	l.pushLocked(e)
}

// Present is who a user is by now for whom calls are counted: for a while after a Move that is who follows.
func (l *Ledger) Present(user string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.presentLocked(user)
}

// Move makes the former user's sums the user's. What was spent counts for the former one's budget, too, so that no
// budget begins anew. On a nil Ledger it does nothing.
func (l *Ledger) Move(former, user string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.moves = slices.DeleteFunc(l.moves, func(m move) bool { return m.from == former || m.from == user })
	for len(l.moves) == maxMoves || len(l.moves) > 0 && now.Sub(l.moves[0].at) > movesKnown {
		l.moves = l.moves[1:]
	}
	l.moves = append(l.moves, move{former, user, now})
	l.pushLocked(entry{user: user, former: former})
}

// presentLocked is who a user is by now whose call may have begun under a former token.
func (l *Ledger) presentLocked(user string) string {
	for _, m := range l.moves {
		if m.from == user {
			user = m.to
		}
	}
	return user
}

func (l *Ledger) pushLocked(e entry) {
	if len(l.queue) >= maxBacklog {
		l.lost++
		return
	}
	l.last++
	e.number = l.last
	l.queue = append(l.queue, e)
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends.
func (l *Ledger) Run(ctx context.Context) {
	for ctx.Err() == nil {
		e, ok := l.first()
		if !ok {
			select {
			case <-l.more:
			case <-ctx.Done():
			}
			continue
		}
		err := l.write(ctx, e)
		l.note(e, err)
		if err != nil && ctx.Err() == nil {
			rest(ctx, l.pause)
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l *Ledger) first() (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return entry{}, false
	}
	return l.queue[0], true
}

// write writes an entry, at most once however often it is called for it. The error says that it has to be tried again.
func (l *Ledger) write(ctx context.Context, e entry) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if e.former != "" {
		return final(l.writeMove(ctx, e))
	}
	keys := []string{lastKey(l.id), uncopiedKey, subjectsKey(e.day), sumsKey(e.day, e.user)}
	if e.subject != "" {
		keys = append(keys, sumsKey(e.day, e.subject))
	}
	args := append(make([]any, 0, 32), e.number, keep.Milliseconds(), e.day, e.user, e.subject)
	e.sums.fields(func(name string, n int64) { args = append(args, name, n) })
	return final(addScript.Run(ctx, l.redis, keys, args...).Err())
}

func (l *Ledger) writeMove(ctx context.Context, e entry) error {
	keys := []string{lastKey(l.id), uncopiedKey, wholeKey, heirsKey}
	args := []any{e.number, keep.Milliseconds(), e.former, e.user}
	for i := range KeepDays {
		day := Day(time.Now().AddDate(0, 0, -i))
		keys = append(keys, subjectsKey(day), sumsKey(day, e.former), sumsKey(day, e.user))
		args = append(args, day)
	}
	return moveScript.Run(ctx, l.redis, keys, args...).Err()
}

// refused is an error by which Redis says that it will never take an entry.
type refused struct{ error }

// final tells such an error from those that pass. Those of Redis that pass begin with a word of their own.
func final(err error) error {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return err
	}
	for _, passes := range []string{"LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN ", "OOM ", "BUSY ",
		"MISCONF ", "NOREPLICAS ", "NOAUTH ", "NOPERM ", "max number of clients "} {
		if redis.HasErrorPrefix(answer, passes[:len(passes)-1]) {
			return err
		}
	}
	return refused{err}
}

// note says how the writing of the first entry went.
func (l *Ledger) note(e entry, err error) {
	isRefused := errors.As(err, new(refused))
	l.mu.Lock()
	l.failing = err != nil && !isRefused
	if !l.failing {
		l.queue[0] = entry{}
		l.queue = l.queue[1:]
		l.written = e.number
	}
	lost := 0
	if err == nil {
		lost, l.lost = l.lost, 0
	}
	close(l.news)
	l.news = make(chan struct{})
	l.mu.Unlock()
	if isRefused {
		l.log.Error("what a turn took can't be written down", "error", err)
	}
	if lost > 0 {
		l.log.Error("what turns took was not written down, as Redis was away for long", "turns", lost)
	}
}

// Flush returns when all that was told so far is written. The error is ctx's, or says that Redis is away.
func (l *Ledger) Flush(ctx context.Context) error {
	l.mu.Lock()
	upTo := l.last
	l.mu.Unlock()
	for {
		l.mu.Lock()
		done, failing, news := l.written >= upTo || len(l.queue) == 0, l.failing, l.news
		l.mu.Unlock()
		switch {
		case done:
			return nil
		case failing:
			return errAway
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

var errAway = errors.New("usage: Redis is away")

// Close waits until all is written, as long as ctx lets it.
func (l *Ledger) Close(ctx context.Context) {
	for ctx.Err() == nil && l.Flush(ctx) != nil {
		rest(ctx, l.pause/10)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.queue) + l.lost; n > 0 {
		l.log.Error("what turns took was not written down, as Redis is away", "turns", n)
	}
}
