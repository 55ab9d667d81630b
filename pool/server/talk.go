package server

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/channel"
)

const (
	// mostWaiting is how many messages may wait in a channel for their turn.
	mostWaiting = 8
	// mostSteered is how many more a turn that runs is given.
	mostSteered  = 64
	waitingRetry = time.Second
)

// sources tell who says what is in a channel's log.
const (
	sourceWorker = "worker"
	sourceClient = "client"
)

// talk is the channel of one conversation: a log that clients read, and turns that belong to none of them.
type talk struct {
	channels *channels
	id       talkID
	log      *channel.Log
	users    int           // guarded by channels.mu: requests that use it, and its turns
	left     time.Time     // as users: when it was used last
	place    *list.Element // as users: in channels.unused; nil: it is used, or dropped
	claim    string        // as users: by which the user was this instance's when it was used last

	asks    pendingAsks // has a lock of its own, and so has came
	came    payloads
	spoken  atomic.Bool // a message has come
	hadTurn atomic.Bool // so that the user is one

	mu        sync.Mutex // guards the following
	waiting   []*said
	isDead    bool                    // the conversation is deleted
	busy      bool                    // turns are being run
	turn      Turn                    // that runs; nil: none does
	cancel    context.CancelCauseFunc // of a turn that is being made ready
	isStopped bool                    // whoever wants it interrupted couldn't yet
	steered   int                     // messages that it was given
	names     []named                 // of its messages
	whenRest  []func()                // to be called when no turn runs or waits
	wishes    wishes
}

// said is a user message that waits for its turn.
type said struct {
	api.Payload
	service string // id of the service's key that it came by
	outage  bool
	release func() // of what it takes
}

// named is what a message is called by its client, and what the CLI calls it: one that it has been told of before, as
// by a client that has sent it to another owner, it would drop without a word. Both have the same length.
type named struct {
	outer, inner []byte
	isAnswered   bool
}

// wishes are what clients have asked of the conversation's processes; zero: nothing.
type wishes struct {
	model      *string
	permission string
	initialize *api.Initialize
	isGuarded  bool // somebody has read since it was asked for, without going for long
}

func newTalk(c *channels, id talkID, log *channel.Log) *talk {
	t := &talk{channels: c, id: id, log: log}
	t.asks.talk, t.came.log = t, log
	return t
}

// whenIdle has f called as soon as no turn runs or waits.
func (t *talk) whenIdle(f func()) {
	t.mu.Lock()
	if t.busy {
		t.whenRest = append(t.whenRest, f)
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	f()
}

// enqueue has a message's turn run. The first one in line has to be begun by the caller: see run.
func (t *talk) enqueue(m *said) (isFirst bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isDead {
		return false, errDeleted
	}
	if len(t.waiting) >= mostWaiting {
		return false, api.RateLimited(waitingRetry, "%d messages of this conversation are waiting already", mostWaiting)
	}
	t.waiting = append(t.waiting, m)
	isFirst = !t.busy
	t.busy = true
	return isFirst, nil
}

// wish changes what is asked of the conversation's processes.
func (t *talk) wish(change func(*wishes)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.wishes)
}

// hasWishes reports whether clients have asked for anything.
func (t *talk) hasWishes() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wishes != wishes{}
}

func (t *talk) dropWishes() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.log.Hold(-sizeOf(t.wishes.initialize))
	t.wishes = wishes{}
}

// initialize changes what clients that connect ask of the conversation's processes, if there is room for it. Hooks that
// guard tools stay as long as whoever has registered them may be there.
func (t *talk) initialize(init *api.Initialize) error {
	err := t.tryInitialize(init)
	for errors.Is(err, errManyLogs) && t.channels.giveWay() {
		err = t.tryInitialize(init)
	}
	return err
}

func (t *talk) tryInitialize(init *api.Initialize) (err error) {
	isWatched := t.log.Watched(absence) > 0
	t.mu.Lock()
	defer t.mu.Unlock()
	if isWatched && t.wishes.isGuarded {
		if init, err = guardedBy(t.wishes.initialize, init); err != nil {
			return err
		}
	}
	more := sizeOf(init) - sizeOf(t.wishes.initialize)
	if !t.log.Hold(more) && more > 0 {
		t.log.Hold(-more)
		return errManyLogs
	}
	t.wishes.initialize, t.wishes.isGuarded = init, true
	return nil
}

// read begins to read the log. If nobody has for a while, who registered hooks has gone.
func (t *talk) read(after int64) (*channel.Reader, error) {
	if t.log.Watched(absence) == 0 {
		t.wish(func(w *wishes) { w.isGuarded = false })
	}
	return t.log.Read(after)
}

func sizeOf(init *api.Initialize) int64 {
	if init == nil {
		return 0
	}
	size := len(init.Live) + len(init.First)
	if init.System != nil {
		size += len(*init.System)
	}
	return int64(size)
}
