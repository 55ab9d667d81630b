package main

import (
	"slices"
	"strings"
	"time"
)

const (
	// keptWithin is how long after its answer a turn is in the archive, on a busy machine.
	keptWithin = 5 * time.Second
	// keptAgain is how long after an outage of the archive all is kept again: instances try once a minute.
	keptAgain = 90 * time.Second
)

// memory is what a talker's present conversation has to remember.
type memory struct {
	by    *instance // that answered last
	turns []answer
}

type answer struct {
	ticket string
	at     time.Time
}

// newConversation notes that what was said before is of no account any more.
func (l *ledger) newConversation(talker string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.memories[talker] = &memory{}
}

// answered notes that the conversation goes on from here.
func (l *ledger) answered(talker, ticket string, by *instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.memories[talker]
	m.by, m.turns = by, append(m.turns, answer{ticket, time.Now()})
}

// recall checks that the CLI which runs a turn knows what was said before: all of it where the instance is the same and
// was not hit, else as far as it was kept in time.
func (l *ledger) recall(ticket string, n int, messages string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, by, now := l.memories[ticket[:strings.LastIndexByte(ticket, '-')]], l.instances[n], time.Now()
	if m == nil || m.by == nil || by == nil || l.archive.during(now.Add(-keptAgain), now) {
		return
	}
	kept := now
	if began, hit := m.by.harm.latest(now.Add(-2 * recovery)); hit && !m.by.graceful.Load() {
		kept = began.Add(-keptWithin)
	}
	for _, a := range slices.Backward(m.turns) {
		if strings.Contains(messages, a.ticket) {
			return
		}
		if a.at.Before(kept) {
			l.row.forgotten++
			l.noteLocked("%s was run by a CLI of %s that does not know %s, answered %.1f s before by %s", ticket, by, a.ticket,
				now.Sub(a.at).Seconds(), m.by)
			return
		}
	}
}
