package pool

import "container/list"

// line is conversations at rest, the one that was used longest ago first. Like the list it is made of, it has no lock:
// Pool.mu guards every line.
type line struct {
	list list.List
	last *list.Element // what was added last, if it is still there
}

// add puts a conversation in its place. That is the end of the line, or where all of a user's conversations are put
// back at once, near the one that was put back before.
func (l *line) add(c *conversation) *list.Element {
	at := l.list.Back()
	if l.last != nil && isLater(at, c) {
		at = l.last
		for next := at.Next(); next != nil && !isLater(next, c); next = at.Next() {
			at = next
		}
	}
	for at != nil && isLater(at, c) {
		at = at.Prev()
	}
	if at == nil {
		l.last = l.list.PushFront(c)
	} else {
		l.last = l.list.InsertAfter(c, at)
	}
	return l.last
}

// isLater reports whether the conversation at a place was used after the other.
func isLater(at *list.Element, c *conversation) bool {
	return at != nil && at.Value.(*conversation).lastUsed.After(c.lastUsed)
}

// remove takes a conversation out.
func (l *line) remove(at *list.Element) {
	if l.last == at {
		l.last = at.Prev()
	}
	l.list.Remove(at)
}

// first is the conversation that was used longest ago, or nil.
func (l *line) first() *conversation {
	if front := l.list.Front(); front != nil {
		return front.Value.(*conversation)
	}
	return nil
}

// nextVictim is the conversation that gives way first, or nil: an unproven user's, else the one that was used longest
// ago.
func (l *line) nextVictim() *conversation {
	for e := l.list.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conversation); c.user.isUnproven() {
			return c
		}
	}
	return l.first()
}
