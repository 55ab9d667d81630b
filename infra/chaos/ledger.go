package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"claudepool/pool/pooltest"
	"claudepool/router"
)

// ticket is how every turn of the load begins: user, conversation, number. No two turns have the same.
var ticket = regexp.MustCompile(`u(\d+)-\d+-\d{6}`)

// row is what happened while one fault, or one pair, lasted.
type row struct {
	name      string
	answered  int // turns that ran and were answered rightly
	refused   int // an explicit error, nothing was run
	resumed   int // of those answered, whose connection broke and which were taken up again
	failed    int // an explicit error in the stream
	cut       int // the connection broke because its front was killed
	wrong     int // an answer with other words than those asked for
	lost      int // neither an answer nor an explicit error
	forgotten int // turns whose CLI did not know what had been said and kept
	twice     int // run more than once
	disturbed int // not served, though no fault was the user's instance's or front's
	double    int // users with processes or turns on two instances at a time
	split     int // likewise, while one of both was out of touch with Redis
	stale     int // turns begun by an instance without a lease
	left      int // processes, keys and files that nobody clears away
	late      int // talkers that were not served in time
	recovered time.Duration
	reasons   map[string]int // of what was refused or failed
}

// bad is how often something happened that must not.
func (r *row) bad() int {
	return r.wrong + r.lost + r.forgotten + r.twice + r.disturbed + r.double + r.stale + r.left + r.late
}

// ledger keeps what was seen. It is also the Messages API, which every instance calls under a path of its own: so it
// knows who runs which turn. Its methods may be called concurrently.
type ledger struct {
	api     *pooltest.API
	outage  harm // when nobody could reach Redis, or a front could not: then an instance need not either
	archive harm // when conversations could not be kept or fetched

	mu        sync.Mutex // guards the following
	runs      map[string]int
	open      map[string]map[int]int // by user: how many calls of which instance are under way
	instances map[int]*instance
	latest    map[string]beginning // by user
	memories  map[string]*memory   // by talker
	row       *row
	notes     []string
	seen      map[string]bool // users whose double processes were counted in this row
}

// beginning is that of a turn.
type beginning struct {
	by *instance
	at time.Time
}

func newLedger() (*ledger, error) {
	api, err := pooltest.NewAPI(nil)
	if err != nil {
		return nil, err
	}
	return &ledger{api: api, runs: make(map[string]int), open: make(map[string]map[int]int),
		instances: make(map[int]*instance),
		latest:    make(map[string]beginning), memories: make(map[string]*memory), row: &row{name: "the beginning"},
		seen: make(map[string]bool)}, nil
}

// know makes the instance one whose calls can be told.
func (l *ledger) know(i *instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instances[i.number] = i
}

// begin starts a row and returns the one before.
func (l *ledger) begin(name string) *row {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.row
	l.row, l.seen = &row{name: name}, make(map[string]bool)
	l.api.Forget()
	return before
}

// count changes the present row.
func (l *ledger) count(change func(*row)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.row)
}

// reason counts why a turn was not answered.
func (l *ledger) reason(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.row.reasons == nil {
		l.row.reasons = make(map[string]int)
	}
	l.row.reasons[why]++
}

// violation counts what must not happen and keeps a note of it.
func (l *ledger) violation(change func(*row), format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.row)
	l.noteLocked(format, args...)
}

func (l *ledger) noteLocked(format string, args ...any) {
	note := time.Now().UTC().Format("15:04:05.000 ") + l.row.name + ": " + fmt.Sprintf(format, args...)
	l.notes = append(l.notes, note)
	fmt.Println("VIOLATION", note)
}

// ServeHTTP is the Messages API, under the calling instance's number.
func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	number, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	n, err := strconv.Atoi(number)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.URL.Path, r.Body = "/"+path, io.NopCloser(bytes.NewReader(body))
	messages := pooltest.Call{Body: body}.Messages()
	if len(messages) > 0 {
		if found := ticket.FindStringSubmatch(messages[len(messages)-1]); found != nil {
			l.run(found[0], found[1], n)
			defer l.ran(found[1], n)
			l.recall(found[0], n, strings.Join(messages, "\n"))
		}
	}
	l.api.ServeHTTP(w, r)
}

// run notes a call for a turn.
func (l *ledger) run(text, user string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs[text]++; l.runs[text] > 1 {
		l.row.twice++
		l.noteLocked("%s was run %d times, now by instance %d", text, l.runs[text], n)
	}
	if l.staleLocked(user, n) {
		l.row.stale++
		l.noteLocked("%s was begun without a lease by %s", text, l.instances[n])
	}
	l.latest[user] = beginning{l.instances[n], time.Now()}
	if l.open[user] == nil {
		l.open[user] = make(map[int]int)
	}
	l.open[user][n]++
	for other, calls := range l.open[user] {
		if calls > 0 && other != n {
			l.doubleLocked(user, l.instances[n], l.instances[other], "turns")
		}
	}
}

// staleLocked reports whether the instance begins a turn that it may not begin: it has been out of touch for longer
// than a lease, or has only just come back and somebody else has served the user meanwhile.
func (l *ledger) staleLocked(user string, n int) bool {
	i, now := l.instances[n], time.Now()
	if i == nil || l.outage.during(now.Add(-2*recovery), now) {
		return false
	}
	if i.apart.lasts(now.Add(-router.LeaseTime)) {
		return true
	}
	last := l.latest[user]
	return last.by != nil && last.by != i && i.apart.during(last.at, last.at.Add(1)) &&
		i.apart.during(now.Add(-reunion), now) &&
		!last.by.harm.during(now.Add(-2*recovery), now)
}

func (l *ledger) ran(user string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[user][n]--; l.open[user][n] == 0 {
		delete(l.open[user], n)
	}
}

// double notes that a user has something on two instances at a time.
func (l *ledger) double(user string, a, b *instance, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubleLocked(user, a, b, what)
}

// doubleLocked counts a user once in a row on each side. One instance that can't reach Redis, or that has only just
// reached it again, makes it a split.
func (l *ledger) doubleLocked(user string, a, b *instance, what string) {
	now := time.Now()
	split := a == nil || b == nil || a.apart.during(now.Add(-reunion), now) || b.apart.during(now.Add(-reunion), now)
	key := fmt.Sprint(user, split)
	if l.seen[key] {
		return
	}
	l.seen[key] = true
	if split {
		l.row.split++
		return
	}
	l.row.double++
	l.noteLocked("user %s has %s on %s and %s", user, what, a, b)
}

// wasRun says how often a turn was run so far.
func (l *ledger) wasRun(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runs[text]
}

// byID returns the instance of an id, or nil.
func (l *ledger) byID(id string) *instance {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.instances {
		if i.id == id {
			return i
		}
	}
	return nil
}

// byPID returns the instance that runs under a pid, or nil.
func (l *ledger) byPID(pid int) *instance {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.instances {
		if i.PID() == pid && i.Runs() {
			return i
		}
	}
	return nil
}
