package channel

import (
	"container/list"
	"encoding/json"
	"sort"
	"strconv"
	"time"
)

// Event is something to tell.
type Event struct {
	ID      string          // unique among the log's; empty: one is made of its number
	Source  string          // who says it
	Payload json.RawMessage // one line
	Partial bool            // it needn't be kept: what it is a part of will come as a whole
}

// Log is the event log of one conversation. Its events have numbers that only rise, each by one; partial ones have
// none.
type Log struct {
	of      *Logs
	user    User
	place   *list.Element // in of.lines; nil: the log has nothing
	counted int64         // bytes of its events, in of.size
	beside  int64         // bytes that are kept elsewhere for its sake, in of.size

	kept, partial ring
	first, next   int64 // number of the first event there was, and of the next one
	at            int64 // place of the next entry among all, numbered or not
	readers       int
	left          time.Time     // when the last reader went, or the log was begun
	waiting       int           // readers that wait for a change
	changed       chan struct{} // closed, and replaced, when something has changed for who waits
	ended         bool
}

// entry is an event as readers get it.
type entry struct {
	at     int64 // its place among all
	number int64 // 0: it is partial
	came   time.Time
	frame  []byte
}

// ring is entries in their order.
type ring struct {
	entries []entry
	size    int64 // bytes
}

func (r *ring) add(e entry) {
	r.entries = append(r.entries, e)
	r.size += int64(len(e.frame)) + eventCost
}

// drop drops the oldest entry, if there is one.
func (r *ring) drop() bool {
	if len(r.entries) == 0 {
		return false
	}
	r.size -= int64(len(r.entries[0].frame)) + eventCost
	r.entries[0] = entry{} // the array may stay
	r.entries = r.entries[1:]
	return true
}

// trim drops what is above so many bytes, or was added before a moment.
func (r *ring) trim(most int64, before time.Time) {
	for len(r.entries) > 0 && (r.size > most || r.entries[0].came.Before(before)) {
		r.drop()
	}
}

// from is the entries from a place on.
func (r *ring) from(at int64) []entry {
	i := sort.Search(len(r.entries), func(i int) bool { return r.entries[i].at >= at })
	return r.entries[i:]
}

// Append adds events. It waits for nobody.
func (l *Log) Append(events ...Event) {
	s, now := l.of, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		if e.Partial {
			l.addLocked(&l.partial, entry{came: now, frame: partialFrame(e.Payload)})
			continue
		}
		l.addLocked(&l.kept, entry{number: l.next, came: now, frame: frame(l.next, now, e)})
		l.next++
	}
	l.changeLocked(now)
}

// Tell adds something that only those who read now get to know: an event of another name, with data of one line.
func (l *Log) Tell(name string, data json.RawMessage) {
	s, now := l.of, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	l.addLocked(&l.partial, entry{came: now, frame: namedFrame(name, data)})
	l.changeLocked(now)
}

func (l *Log) addLocked(to *ring, e entry) {
	if l.ended {
		return
	}
	e.at = l.at
	l.at++
	to.add(e)
}

// changeLocked bounds the log after something was added, and wakes its readers.
func (l *Log) changeLocked(now time.Time) {
	if l.ended {
		return
	}
	l.expireLocked(now)
	if l.place != nil {
		l.of.lines.MoveToBack(l.place)
	}
	l.of.makeRoomLocked(0)
	l.wakeLocked()
}

func (l *Log) wakeLocked() {
	if l.waiting > 0 {
		l.waiting = 0
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

func (l *Log) expireLocked(now time.Time) {
	l.kept.trim(logBytes, now.Add(-keepFor))
	l.partial.trim(partialBytes, now.Add(-keepPartial))
	l.countLocked()
}

// countLocked counts what the log takes now. One without anything has nothing to give way with, and isn't looked at.
func (l *Log) countLocked() {
	now, s := l.kept.size+l.partial.size, l.of
	s.size += now - l.counted
	l.counted = now
	switch {
	case now > 0 && l.place == nil:
		l.place = s.lines.PushBack(l)
	case now == 0 && l.place != nil:
		s.lines.Remove(l.place)
		l.place = nil
	}
}

// Hold counts so many bytes more, or fewer, that are kept elsewhere for the log's sake until its end. It reports
// whether there is room for all that is counted.
func (l *Log) Hold(bytes int64) bool {
	s := l.of
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.ended {
		return true
	}
	l.beside += bytes
	s.size += bytes
	return s.makeRoomLocked(0)
}

// Empty reports whether the log has neither events nor readers.
func (l *Log) Empty() bool {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	return l.readers == 0 && len(l.kept.entries) == 0
}

// Readers is how many there are.
func (l *Log) Readers() int {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	return l.readers
}

// Watched is how long it takes at least until nobody has read the log for so long; 0 if that is so now.
func (l *Log) Watched(absence time.Duration) time.Duration {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	if l.readers > 0 {
		return absence
	}
	return max(0, absence-time.Since(l.left))
}

// End drops the log. Its readers get ErrEnded. It may be called more than once.
func (l *Log) End() {
	s := l.of
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.ended {
		return
	}
	l.kept, l.partial = ring{}, ring{}
	l.countLocked()
	s.size -= l.beside + logCost
	l.ended = true
	l.wakeLocked()
}

// frame is an event as server-sent events have it. The id comes first: so the last one can be found from behind.
func frame(number int64, now time.Time, e Event) []byte {
	const around = 200 // bytes, about
	n := strconv.FormatInt(number, 10)
	id := e.ID
	if id == "" {
		id = "event-" + n
	}
	b := append(make([]byte, 0, len(e.Payload)+around), "id: "...)
	b = append(append(b, n...), "\nevent: client_event\ndata: {\"event_id\":\""...)
	b = append(append(append(b, id...), `","sequence_num":`...), n...)
	b = now.UTC().AppendFormat(append(b, `,"created_at":"`...), time.RFC3339Nano)
	b = append(append(append(b, `","source":"`...), e.Source...), `","payload":`...)
	return append(append(b, e.Payload...), "}\n\n"...)
}

func partialFrame(payload []byte) []byte {
	const begin = "event: ephemeral_event\ndata: {\"payload\":"
	b := append(make([]byte, 0, len(begin)+len(payload)+len("}\n\n")), begin...)
	return append(append(b, payload...), "}\n\n"...)
}

func namedFrame(name string, data []byte) []byte {
	return append(append([]byte("event: "+name+"\ndata: "), data...), "\n\n"...)
}
