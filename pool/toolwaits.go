package pool

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"claudepool/pool/api"
)

// What ends a turn that waits for its client, beside that client's silence.
var (
	errNoResults  = errors.New("pool: nobody has sent the results of the tools")
	errLost       = errors.New("pool: the waiting turn has ended")
	errOvertaken  = errors.New("pool: others need what a waiting turn has")
	errNotWaiting = &api.Error{Status: 400, Type: "invalid_request_error",
		Message: "the turn that these results of tools are for is over, and a conversation with a session id has its own " +
			"history: ask again"}
)

// undoTime is how long it takes at most until a turn that gives way has done so.
const undoTime = 5 * time.Second

// longWait is after how long a waiting turn gives way to requests that find no room.
const longWait = time.Minute

// toolWaits are the turns that wait for what their clients' tools say. Its methods may be called concurrently.
type toolWaits struct {
	count atomic.Int64 // spares most requests the lock

	mu     sync.Mutex // guards the following
	users  map[string][]*toolTurn
	undone map[string]time.Time // when one of a user with others last gave way to that user
	closed bool                 // none may wait any more
}

func newToolWaits() *toolWaits {
	return &toolWaits{users: make(map[string][]*toolTurn), undone: make(map[string]time.Time)}
}

// add notes that a turn waits, and reports whether it may. There are no more of a user than the user has processes.
func (w *toolWaits) add(t *toolTurn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.users[t.user] = append(w.users[t.user], t)
	w.count.Add(1)
	return true
}

// remove notes that a turn doesn't wait any more, and reports whether it did.
func (w *toolWaits) remove(t *toolTurn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.removeLocked(t)
}

func (w *toolWaits) removeLocked(t *toolTurn) bool {
	waiting := w.users[t.user]
	i := slices.Index(waiting, t)
	if i < 0 {
		return false
	}
	if waiting = slices.Delete(waiting, i, i+1); len(waiting) == 0 {
		delete(w.users, t.user)
		delete(w.undone, t.user)
	} else {
		w.users[t.user] = waiting
	}
	w.count.Add(-1)
	return true
}

// take takes the turn that waits for these results, nil if none does. The error says that some are missing.
func (w *toolWaits) take(user string, results []api.ToolResult) (*toolTurn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.users[user] {
		missing := t.missing(results)
		switch {
		case len(missing) == len(t.calls):
		case len(missing) > 0:
			return nil, api.Invalid("messages: the results of these calls are missing: %s", strings.Join(missing, ", "))
		default:
			w.removeLocked(t)
			return t, nil
		}
	}
	return nil, nil
}

// on is why a conversation's requests don't wait in line: its turn waits for its client.
func (w *toolWaits) on(c *conversation) error {
	if w.count.Load() == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.users[c.user.id] {
		if t.h.conversation == c {
			return api.RateLimited(time.Second, "this conversation's turn waits for the results of its client's tools: %s",
				strings.Join(t.missing(nil), ", "))
		}
	}
	return nil
}

// undo ends a user's waiting turns, or that of one session.
func (w *toolWaits) undo(user, session string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range slices.Clone(w.users[user]) {
		if session == "" || t.h.id == session {
			w.removeLocked(t)
			t.cut(errOvertaken)
		}
	}
}

// undoLongestOf ends the user's turn that has waited for longest, if there is one.
func (w *toolWaits) undoLongestOf(user string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if waiting := w.users[user]; len(waiting) > 0 && time.Since(w.undone[user]) > undoTime {
		longest := waiting[0]
		w.undone[user] = time.Now()
		w.removeLocked(longest)
		longest.cut(errOvertaken)
	}
}

// undoLongest ends the turn that has waited for longest, if that is long.
func (w *toolWaits) undoLongest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest *toolTurn
	for _, waiting := range w.users {
		if t := waiting[0]; longest == nil || t.since.Before(longest.since) {
			longest = t
		}
	}
	if longest != nil && time.Since(longest.since) > longWait {
		w.removeLocked(longest)
		longest.cut(errOvertaken)
	}
}

// close ends all waiting turns. None may wait from then on.
func (w *toolWaits) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, waiting := range w.users {
		for _, t := range slices.Clone(waiting) {
			w.removeLocked(t)
			t.cut(errOvertaken)
		}
	}
}
