package cli

import (
	"cmp"
	"context"
	"sync"
	"time"

	"claudepool/pool/claude"
)

// queueBytes bounds what is kept for a client that reads slower than its process writes; then the process waits. One
// line always fits, however long.
const queueBytes = 1 << 20

// turn is one user message and the lines that answer it. The process's reader fills it, Run empties it.
type turn struct {
	uuid  string
	scrub func([]byte) []byte

	more      chan struct{} // buffered by one: lines, or the end, are there to be taken
	begun     chan struct{} // closed at system/init: from here on an interrupt has an effect
	completed chan struct{} // closed when the CLI has put the message away, or has died
	ended     chan struct{} // closed with the result, or with the process

	mu      sync.Mutex // guards the following
	room    *sync.Cond
	started bool // the CLI has taken the message up: what follows belongs to this turn
	lines   [][]byte
	size    int
	full    bool         // a line waits for room
	dropped bool         // nobody reads any more: drop instead of keeping
	spoke   time.Time    // when the first token came; zero: none has
	waiting []string     // uuids of messages that were added, until they are answered
	result  *claude.Line // the last one that has come
	usage   *claude.Usage
	over    bool // no other result will come
	err     error

	answer claude.Answer
	// lasting says that a rewind can't undo the turn: what was said before has been replaced by a summary, or a tool has
	// been called, of which something may go on that a later turn would find.
	lasting bool

	background
}

func newTurn(uuid string, scrub func([]byte) []byte) *turn {
	t := &turn{uuid: uuid, scrub: scrub,
		more: make(chan struct{}, 1), begun: make(chan struct{}), completed: make(chan struct{}), ended: make(chan struct{})}
	t.room = sync.NewCond(&t.mu)
	return t
}

// add considers one line of the process's output. It blocks while the client's queue is full.
func (t *turn) add(line claude.Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if line.Type == "command_lifecycle" {
		t.lifecycleLocked(line)
		return
	}
	if !t.started || t.over || t.err != nil {
		return
	}
	isOver := t.trackTasksLocked(&line)
	t.passHeldLocked()
	if t.over || t.err != nil { // so it was meanwhile, if there was no room
		return
	}
	if isOver {
		t.endLocked()
	}
	if !line.Public() {
		return
	}
	switch {
	case line.Type == "system" && line.Subtype == "init":
		closeOnce(t.begun)
	case line.Type == "system" && line.Subtype == "compact_boundary", line.CallsTool():
		t.lasting = true
	case line.Type == "result" && !t.isOursLocked(&line):
		return
	}
	if t.spoke.IsZero() && line.Speaks() {
		t.spoke = time.Now()
	}
	t.answer.Add(&line)
	raw := line.Raw
	if line.Failure() {
		raw = t.scrub(raw)
	}
	if line.Type == "result" {
		t.concludeLocked(&line, raw)
		return
	}
	t.pushLocked(raw)
}

// concludeLocked takes a result, which clients get as raw.
func (t *turn) concludeLocked(line *claude.Line, raw []byte) {
	if t.waits {
		t.held = raw
	} else {
		t.pushLocked(raw)
	}
	if t.err != nil {
		return // it failed while the line waited for room
	}
	result := *line // a copy, so that no other line has to be on the heap
	t.result = &result
	if line.HasUsage {
		sum := line.Usage
		if t.usage != nil {
			sum = sum.Plus(*t.usage)
		}
		t.usage = &sum
	}
	if !t.waits && len(t.waiting) == 0 {
		t.endLocked()
	}
}

// addShown considers a line by which the CLI asks, or gives it up, and that the client is to see. It may block as add.
func (t *turn) addShown(line claude.Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started && !t.over && t.err == nil {
		t.pushLocked(line.Raw)
	}
}

// endLocked says that the last result has come.
func (t *turn) endLocked() {
	if t.over || t.err != nil {
		return
	}
	t.over = true
	closeOnce(t.begun)
	close(t.ended)
	t.signal()
}

func (t *turn) lifecycleLocked(line claude.Line) {
	if line.MessageUUID != t.uuid {
		return
	}
	switch line.State {
	case "queued":
	case "started":
		t.started = true
	default:
		closeOnce(t.completed)
	}
}

func (t *turn) pushLocked(raw []byte) {
	for t.size > 0 && t.size+len(raw) > queueBytes && !t.dropped && t.err == nil {
		t.full = true
		t.room.Wait()
	}
	t.full = false
	if t.dropped || t.err != nil {
		return
	}
	t.lines = append(t.lines, raw)
	t.size += len(raw)
	t.signal()
}

// stalled reports whether the process waits for the client to read.
func (t *turn) stalled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.full || t.size > queueBytes/2
}

// firstToken is when the first one came, or zero.
func (t *turn) firstToken() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spoke
}

// pop takes all lines that have come, and tells whether they are the last, and whether others, perhaps the result, were
// kept from the client.
func (t *turn) pop() (lines [][]byte, last, dropped bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.more: // it tells of what is taken now
	default:
	}
	lines, t.lines, t.size = t.lines, nil, 0
	t.room.Broadcast()
	return lines, t.over || t.err != nil, t.dropped
}

// hasEnded reports whether the turn has its last result or an error.
func (t *turn) hasEnded() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

// gather lets lines come together for d, or until the turn's end.
func (t *turn) gather(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ended:
	case <-ctx.Done():
	}
}

// drop lets the turn run on without anybody reading it.
func (t *turn) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropped, t.lines, t.size = true, nil, 0
	t.room.Broadcast()
}

// fail ends the turn without a result.
func (t *turn) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	closeOnce(t.completed)
	if t.over || t.err != nil {
		return
	}
	t.stopReportTimerLocked()
	t.err = err
	closeOnce(t.begun)
	close(t.ended)
	t.room.Broadcast()
	t.signal()
}

// isLasting reports whether a rewind can't undo the turn.
func (t *turn) isLasting() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lasting
}

// outcome tells how the turn has gone so far. The error is what took the result's place.
func (t *turn) outcome() (Outcome, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	outcome := Outcome{Started: t.started, Usage: t.usage, Answer: &t.answer, Mark: cmp.Or(t.answer.Last(), t.uuid)}
	if t.over {
		outcome.Result = t.result
	}
	return outcome, t.err
}

// end is the outcome of a turn that has ended, if it has. There is none where the error took its place.
func (t *turn) end(has bool) (*Outcome, error) {
	if !has {
		return nil, nil
	}
	outcome, err := t.outcome()
	if err != nil {
		return nil, err
	}
	return &outcome, nil
}

// signal says that something is there to be taken.
func (t *turn) signal() {
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// closeOnce closes a channel that only one goroutine at a time may close.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}
