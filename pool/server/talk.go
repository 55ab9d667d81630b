package server

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/api"
	"claudepool/pool/channel"
)

const (
	// mostWaiting is how many messages may wait in a channel for their turn.
	mostWaiting = 8
	// mostSteered is how many more a turn that runs is given.
	mostSteered = 64
	// mostRemembered is of how many payloads a channel knows that they have come.
	mostRemembered = 1024
	waitingRetry   = time.Second
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
	users    int // guarded by channels.mu: requests that use it, and its turns

	asks pendingAsks // has a lock of its own

	mu       sync.Mutex // guards the following
	seen     map[string]bool
	seenList []string // the same, oldest first
	waiting  []*said
	busy     bool                    // turns are being run
	turn     Turn                    // that runs; nil: none does
	cancel   context.CancelCauseFunc // of a turn that is being made ready
	steered  int                     // messages that it was given
	names    []named                 // of its messages
	whenRest []func()                // to be called when no turn runs or waits
	wishes   wishes
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
type named struct{ outer, inner []byte }

// wishes are what clients have asked of the conversation's processes; zero: nothing.
type wishes struct {
	model      *string
	permission string
	initialize *api.Initialize
}

func newTalk(c *channels, id talkID, log *channel.Log) *talk {
	t := &talk{channels: c, id: id, log: log, seen: make(map[string]bool)}
	t.asks.talk = t
	return t
}

// isNew reports whether a payload has not come before: clients send again what they have no answer to.
func (t *talk) isNew(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[id] {
		return false
	}
	t.seen[id] = true
	if t.seenList = append(t.seenList, id); len(t.seenList) > mostRemembered {
		delete(t.seen, t.seenList[0])
		t.seenList = t.seenList[1:]
	}
	return true
}

// forgetSeen has a payload that was refused come again.
func (t *talk) forgetSeen(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.seen, id)
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
	if len(t.waiting) >= mostWaiting {
		return false, api.RateLimited(waitingRetry, "%d messages of this conversation are waiting already", mostWaiting)
	}
	t.waiting = append(t.waiting, m)
	isFirst = !t.busy
	t.busy = true
	return isFirst, nil
}

// next is the message whose turn is next. Without one, the channel is at rest.
func (t *talk) next() *said {
	t.mu.Lock()
	if len(t.waiting) > 0 {
		defer t.mu.Unlock()
		m := t.waiting[0]
		t.waiting = slices.Delete(t.waiting, 0, 1)
		return m
	}
	t.busy = false
	rest := t.whenRest
	t.whenRest = nil
	t.mu.Unlock()
	for _, f := range rest {
		f()
	}
	return nil
}

func (t *talk) setTurn(turn Turn, cancel context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn, t.cancel, t.steered = turn, cancel, 0
}

func (t *talk) endTurn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn, t.cancel, t.names = nil, nil, nil
}

// giveUp has a turn that is being made ready not begin.
func (t *talk) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		t.cancel(errInterrupted)
	}
}

// steerable is the turn that runs if it can be given another message now, with a name for that.
func (t *talk) steerable(message string) (turn Turn, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turn == nil || len(t.waiting) > 0 || t.steered == mostSteered {
		return nil, ""
	}
	t.steered++
	return t.turn, t.nameLocked(message)
}

// steer gives a message to the turn that runs, unless none does.
func (t *talk) steer(m *said, echo channel.Event) bool {
	turn, name := t.steerable(m.UUID)
	if turn == nil || turn.Steer(name, m.Turn.Readings()[0].Message(), m.Priority) != nil {
		return false
	}
	t.log.Append(echo)
	t.deliver(m.UUID, "PROCESSING")
	return true
}

// running is the turn that runs, or nil, and the uuids of the messages that wait.
func (t *talk) running() (turn Turn, waiting []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.waiting {
		waiting = append(waiting, m.UUID)
	}
	return t.turn, waiting
}

// wish changes what is asked of the conversation's processes.
func (t *talk) wish(change func(*wishes)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.wishes)
}

// nameLocked gives a message of the turn a name that the CLI doesn't know.
func (t *talk) nameLocked(outer string) (inner string) {
	inner = uuid.NewString()
	t.names = append(t.names, named{[]byte(outer), []byte(inner)})
	return inner
}

// outward is a line of the turn with the names that clients have given.
func (t *talk) outward(line []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.names {
		if bytes.Contains(line, n.inner) {
			line = bytes.ReplaceAll(line, n.inner, n.outer)
		}
	}
	return line
}

// request is what a message asks of the Backend.
func (t *talk) request(m *said) *api.Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	req := m.Turn
	req.ServiceKey, req.MessageUUID, req.Host = m.service, t.nameLocked(m.UUID), &t.asks
	req.Interactive = t.channels.server.backend.Approves()
	req.PermissionMode = t.wishes.permission
	if t.wishes.model != nil {
		req.Model = *t.wishes.model
	}
	if init := t.wishes.initialize; init != nil {
		req.Client, req.System = init, init.System
	}
	return req
}

// run runs the turns that wait, one after the other, until there is none.
func (t *talk) run() {
	for m := t.next(); m != nil; m = t.next() {
		err := t.runOne(m)
		m.release()
		if err != nil {
			t.log.Append(channel.Event{Source: sourceWorker, Payload: t.failure(m, err)})
		}
		t.deliver(m.UUID, "PROCESSED")
	}
}

func (t *talk) runOne(m *said) error {
	s := t.channels.server
	ctx := context.Background() // the turn is nobody's; the Backend bounds it
	ready, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.setTurn(nil, cancel)
	turn, err := s.backend.Acquire(ready, t.request(m), m.outage)
	if err == nil {
		defer turn.Release()
		t.setTurn(turn, nil)
		defer t.endTurn()
		err = turn.Run(ctx, func() { t.deliver(m.UUID, "PROCESSING") }, t.tell)
	}
	if err != nil {
		return s.public(ctx, err)
	}
	return nil
}
