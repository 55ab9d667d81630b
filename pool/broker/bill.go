package broker

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Usage is what the API says that a call took.
type Usage struct {
	Model                                                string
	Input, Output, CacheRead, CacheWrite5m, CacheWrite1h int64 // tokens
	WebSearches                                          int64
	Fast                                                 bool // it was served in fast mode
}

// Bill is told of a process's calls, and may refuse them. Its methods may be called concurrently.
type Bill interface {
	// Begin is called before a call is passed on, which isn't if it returns an error: the process gets that error's text
	// and makes no further try. Main says that it isn't a subagent's call.
	Begin(ctx context.Context, main bool) error
	// End is called once for each call that was begun, when it has ended. A nil Usage says that it was not answered.
	End(main bool, took *Usage)
}

const (
	// mostReading is how many answers are read at a time that no process waits for.
	mostReading = 512
	// mostGoingOn is how many calls of a credential's go on at a time whose process has gone. No sum has them until they
	// end: whoever hangs up again and again must not have more of them made than a budget allows.
	mostGoingOn = 4
	finishPause = 10 * time.Millisecond
	// cutTime is how long it may take until calls have ended that are cut.
	cutTime = 200 * time.Millisecond
)

// headerAgent is in the calls of the CLI's subagents.
const headerAgent = "X-Claude-Code-Agent-Id"

// beginBill tells the bill of a call, and whether the call may be made.
func (e *exchange) beginBill(w http.ResponseWriter, r *http.Request, b Bill) bool {
	if b == nil || r.URL.Path != pathMessages {
		return true
	}
	e.isMain = r.Header.Get(headerAgent) == ""
	if err := b.Begin(r.Context(), e.isMain); err != nil {
		w.Header().Set("X-Should-Retry", "false") // the CLI doesn't try again on this status anyway
		writeError(w, http.StatusPaymentRequired, "billing_error", err.Error())
		return false
	}
	e.bill = b
	e.grant.broker.unbilled.Add(1)
	return true
}

// endBill tells the bill how the call has ended. It may be called more than once.
func (e *exchange) endBill(took *Usage) {
	if e.bill != nil && !e.billed.Swap(true) {
		e.bill.End(e.isMain, took)
		e.grant.broker.unbilled.Add(-1)
	}
}

// answer is the body of an answer of the API's. What comes of it is a sign of life, and tells what the call took.
type answer struct {
	io.ReadCloser
	exchange *exchange
	meter    meter
	isGood   bool // it is an answer that is paid for
	ended    bool
	isReadOn bool // although its process has gone
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if n > 0 {
		a.exchange.grant.noteHeard()
	}
	a.look(p[:n], err)
	return n, err
}

func (a *answer) look(part []byte, err error) {
	if !a.isGood {
		return
	}
	a.meter.look(part)
	a.ended = a.ended || err != nil
	if a.meter.isOver { // before the process knows it, which may make the next call at once
		a.exchange.endBill(a.meter.usage())
	}
}

// Close ends the call. Where its process has gone and the API still answers, what comes is read on for a while: all of
// it is paid for.
func (a *answer) Close() error {
	e := a.exchange
	b := e.grant.broker
	if !a.isGood || a.ended || e.bill == nil || !b.reading.TryAcquire(1) {
		return a.close()
	}
	a.isReadOn = b.serve(func() {
		defer b.reading.Release(1)
		defer e.cut(nil)
		scratch := make([]byte, 4<<10)
		for !a.ended {
			n, err := a.ReadCloser.Read(scratch)
			a.look(scratch[:n], err)
		}
		_ = a.close()
	})
	if a.isReadOn {
		return nil
	}
	b.reading.Release(1)
	return a.close()
}

func (a *answer) close() error {
	var took *Usage
	if a.isGood {
		took = a.meter.usage()
	}
	a.exchange.endBill(took)
	return a.ReadCloser.Close()
}

// outlive is the context of a call: it ends some time after the process has ended, as what the API has begun to answer
// is paid for. A call that a process gives up which lives on ends at once, and the API answers no further.
func (b *Broker) outlive(r *http.Request, e *exchange) context.Context {
	ctx, cut := context.WithCancelCause(context.WithoutCancel(r.Context()))
	e.cut = cut
	e.stop = context.AfterFunc(r.Context(), func() {
		if e.bill == nil || !e.arrived.Load() || !b.goesOn(e.credential) {
			cut(context.Cause(r.Context()))
			return
		}
		e.grant.abandon(e)
		stop := context.AfterFunc(b.finishing, func() { cut(ErrClosed) })
		timer := time.AfterFunc(b.limits.goneFor, func() { cut(errGone) })
		context.AfterFunc(ctx, func() {
			timer.Stop()
			stop()
			b.goesOnNoMore(e.credential)
		})
		if !e.grant.hasEnded(b.limits.ending) {
			cut(errGivenUp)
		}
	})
	return ctx
}

// goesOn counts one more call of the credential's that goes on without its process, unless there are too many.
func (b *Broker) goesOn(c Credential) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.goingOn[c] >= mostGoingOn {
		return false
	}
	b.goingOn[c]++
	return true
}

func (b *Broker) goesOnNoMore(c Credential) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.goingOn[c]--; b.goingOn[c] == 0 {
		delete(b.goingOn, c)
	}
}

// Finish has the calls come to their end whose processes have gone, as long as ctx lets them, and then ends them. When
// it returns, bills have been told of all of them.
func (b *Broker) Finish(ctx context.Context) {
	b.awaitBilled(ctx)
	if n := b.unbilled.Load(); n > 0 {
		b.log.Warn("calls are ended whose cost isn't known in full", "calls", n)
	}
	b.endCalls()
	cutting, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutTime)
	defer cancel()
	b.awaitBilled(cutting)
}

// awaitBilled returns when bills have been told of all calls, or ctx is done.
func (b *Broker) awaitBilled(ctx context.Context) {
	for b.unbilled.Load() > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(finishPause):
		}
	}
}
