package cli

import (
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

const (
	// mostAsks and askBytes bound what a CLI can have waiting for its host. It runs what nobody has looked through.
	mostAsks = 64
	askBytes = 2 << 20
)

// asks are those of a process that wait for an answer.
type asks struct {
	limit time.Duration // for each to be answered

	mu      sync.Mutex // guards the following
	host    Host       // nil: nobody answers
	pending []*pendingAsk
	bytes   int
	given   [mostAsks][32]byte // digests of the last answers
	answers int                // that were given in all
	since   time.Time          // when something began to be pending, if something is
	waited  time.Duration      // for answers, before that
}

type pendingAsk struct {
	Ask
	host    Host
	shown   bool
	timeout *time.Timer
}

// add keeps an ask for the host, who is nil if there is none or too much is kept.
func (a *asks) add(of Ask, expire func()) Host {
	a.mu.Lock()
	defer a.mu.Unlock()
	isMore := len(a.pending) >= mostAsks || a.bytes+len(of.Line) > askBytes
	if a.host == nil || isMore || a.findLocked(of.ID) >= 0 {
		return nil
	}
	if len(a.pending) == 0 {
		a.since = time.Now()
	}
	a.pending = append(a.pending, &pendingAsk{Ask: of, host: a.host, timeout: time.AfterFunc(a.limit, expire)})
	a.bytes += len(of.Line)
	return a.host
}

func (a *asks) findLocked(id string) int {
	return slices.IndexFunc(a.pending, func(p *pendingAsk) bool { return p.ID == id })
}

// show says that the client sees an ask, if it still waits.
func (a *asks) show(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := a.findLocked(id)
	if i < 0 {
		return false
	}
	a.pending[i].shown = true
	return true
}

// remove takes an ask out, which nobody else can do from then on; nil if it isn't there.
func (a *asks) remove(id string) *pendingAsk {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.removeLocked(id)
}

// removeOf does so if the ask is of that host.
func (a *asks) removeOf(id string, host Host) *pendingAsk {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := a.findLocked(id); i < 0 || a.pending[i].host != host {
		return nil
	}
	return a.removeLocked(id)
}

func (a *asks) removeLocked(id string) *pendingAsk {
	i := a.findLocked(id)
	if i < 0 {
		return nil
	}
	taken := a.pending[i]
	taken.timeout.Stop()
	a.pending = slices.Delete(a.pending, i, i+1)
	a.bytes -= len(taken.Line)
	if len(a.pending) == 0 {
		a.waited += time.Since(a.since)
	}
	return taken
}

// answer takes an ask out that is answered with the line. Where there is none it reports whether that was one of the
// last answers.
func (a *asks) answer(id string, line []byte) (taken *pendingAsk, isRepeated bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	digest := sha256.Sum256(line)
	if taken = a.removeLocked(id); taken == nil {
		return nil, slices.Contains(a.given[:min(a.answers, mostAsks)], digest)
	}
	a.given[a.answers%mostAsks] = digest
	a.answers++
	return taken, false
}
