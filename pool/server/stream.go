package server

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"claudepool/pool/api"
)

// finalWriteTime is how long a client may take to read what is left once its turn has been ended for it.
const finalWriteTime = 2 * time.Second

// mostBatch is how much memory a stream keeps between batches of events, in bytes.
const mostBatch = 16 << 10

// stream is one response as server-sent events. Its methods may be called concurrently with its own pings.
type stream struct {
	requestID, instance string
	pingInterval        time.Duration
	receivedAt          time.Time

	mu      sync.Mutex // guards the following and the writing
	w       http.ResponseWriter
	control *http.ResponseController
	turn    string       // not empty: its events have ids
	receipt *api.Receipt // nil until there is a process
	opened  bool
	waiting bool // for what can't be said to have begun before
	closed  bool
	last    time.Time // of the last write
	opening *time.Timer
	pinging *time.Timer
	batch   []byte // the last one, whose memory the next one takes

	end          sync.Mutex // guards the following, also while a write is under way
	over         bool       // the connection is the next request's
	patience     context.Context
	stopPatience func() bool // ends the watching of patience
}

func newStream(w http.ResponseWriter, requestID, instance string, pingInterval time.Duration) *stream {
	return &stream{w: w, control: http.NewResponseController(w), receivedAt: time.Now(), requestID: requestID,
		instance:     instance,
		pingInterval: pingInterval}
}

// openAfter opens the stream when d has passed and nothing else did. Until markBegun nothing is run.
func (s *stream) openAfter(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = true
	s.opening = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.openLocked()
	})
}

// open sends the headers. Those about the process are left out where the stream had to be opened before; the receipt
// has them all the same. It may be called again when another process has the turn.
func (s *stream) open(receipt api.Receipt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	receipt.Instance = s.instance
	if s.receipt != nil {
		receipt.FirstEvent = s.receipt.FirstEvent
	}
	s.receipt = &receipt
	if s.opened {
		return
	}
	s.w.Header().Set(api.HeaderPID, strconv.Itoa(receipt.PID))
	s.w.Header().Set(api.HeaderProcess, receipt.Process)
	s.w.Header().Set(api.HeaderTiming, receipt.ServerTiming())
	s.openLocked()
}

// markBegun says in the headers, if they haven't been sent, that from here on the request may have been run.
func (s *stream) markBegun() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
	if !s.opened {
		s.w.Header().Set(api.HeaderBegun, "1")
	}
}

// update says how the turn has gone, if its process is known.
func (s *stream) update(receipt api.Receipt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receipt == nil {
		return
	}
	receipt.Instance, receipt.FirstEvent = s.instance, s.receipt.FirstEvent
	s.receipt = &receipt
}

// resumable gives the stream's events ids of the turn, by which it can be taken up again.
func (s *stream) resumable(turn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn = turn
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// streamHeader is what every stream's header has, for http.Header to share.
var streamHeader = http.Header{
	"Content-Type": {"text/event-stream"}, "Cache-Control": {"no-cache, no-transform"}, "X-Accel-Buffering": {"no"},
}

func (s *stream) openLocked() {
	if s.opened || s.closed {
		return
	}
	s.opened = true
	header := s.w.Header()
	if s.turn != "" {
		header.Set(api.HeaderTurn, s.turn)
	}
	maps.Copy(header, streamHeader)
	header.Set(api.HeaderRequestID, s.requestID)
	header.Set(api.HeaderInstance, s.instance)
	s.w.WriteHeader(http.StatusOK)
	_ = s.control.Flush()
	s.last = time.Now()
	s.pinging = time.AfterFunc(s.pingInterval, s.ping)
}

// ping keeps a silent stream alive.
func (s *stream) ping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if silent := time.Since(s.last); silent < s.pingInterval {
		s.pinging.Reset(s.pingInterval - silent)
		return
	}
	_ = s.writeLocked([]byte(api.Ping))
	s.pinging.Reset(s.pingInterval)
}

// limitWrite frees whoever waits for a client that doesn't read. Once the response is over, it does nothing.
func (s *stream) limitWrite() {
	s.end.Lock()
	defer s.end.Unlock()
	if !s.over {
		_ = s.control.SetWriteDeadline(time.Now().Add(finalWriteTime))
	}
}

// limitWriteWith limits writing as limitWrite does when ctx is ended for a reason. It mostly is the one context of all
// batches of a turn.
func (s *stream) limitWriteWith(ctx context.Context) {
	s.end.Lock()
	defer s.end.Unlock()
	if s.patience == ctx || s.over {
		return
	}
	if s.stopPatience != nil {
		s.stopPatience()
	}
	s.patience, s.stopPatience = ctx, context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), context.Canceled) { // as each turn ends, also one that is read slowly to its end
			s.limitWrite()
		}
	})
}

// sendLines sends a batch of lines, each as one event, and flushes once. When ctx is ended for a reason it doesn't wait
// for the client any longer.
func (s *stream) sendLines(ctx context.Context, lines [][]byte) error {
	return s.sendNumbered(ctx, 0, lines)
}

// sendNumbered does the same; where the stream can be taken up again, the events have ids that begin with the number
// from.
func (s *stream) sendNumbered(ctx context.Context, from int, lines [][]byte) error {
	s.limitWriteWith(ctx) // before the lock, which a ping that nobody reads may hold
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receipt.FirstEvent == 0 {
		s.receipt.FirstEvent = milliseconds(time.Since(s.receivedAt))
	}
	size := 0
	for _, line := range lines {
		size += len(line) + len(s.turn) + len("id: .1234567\ndata: \n\n")
	}
	events := slices.Grow(s.batch[:0], size)
	for i, line := range lines {
		if s.turn != "" {
			events = append(api.AppendEventID(append(events, "id: "...), s.turn, from+i), '\n')
		}
		events = append(events, "data: "...)
		events = append(events, line...)
		events = append(events, "\n\n"...)
	}
	if s.batch = events; cap(events) > mostBatch {
		s.batch = nil
	}
	return s.writeLocked(events)
}

func (s *stream) writeLocked(b []byte) error {
	if s.closed {
		return http.ErrHandlerTimeout
	}
	if _, err := s.w.Write(b); err != nil { // #nosec G705 -- an event stream, not HTML
		return err
	}
	s.last = time.Now()
	return s.control.Flush()
}

// done ends a stream whose turn has a result.
func (s *stream) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.writeLocked(s.endLocked(nil))
}

// endLocked puts the receipt and the end mark behind the last events.
func (s *stream) endLocked(last []byte) []byte {
	if s.receipt != nil {
		s.receipt.Total = milliseconds(time.Since(s.receivedAt))
		last = append(last, s.receipt.Comment()...)
	}
	return append(last, api.Done...)
}

// answer ends the response with a result that is no stream.
func (s *stream) answer(v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.w.Header().Set("Content-Type", "application/json")
	s.w.Header().Set(api.HeaderRequestID, s.requestID)
	text, _ := json.Marshal(v) // of texts, numbers, times and valid JSON
	s.w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
	_, _ = s.w.Write(append(text, '\n'))
}

// fail ends the response with an error: an event if the stream is open, else a status and a body.
func (s *stream) fail(err error) {
	s.limitWrite()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened {
		event := api.ErrorEvent(err)
		if s.waiting {
			event = append([]byte(api.NotBegun), event...)
		}
		_ = s.writeLocked(s.endLocked(event))
		return
	}
	s.closed = true
	if errors.As(err, new(notStarted)) {
		s.w.Header().Set(api.HeaderNotStarted, "1")
	}
	api.WriteError(s.w, s.requestID, err)
}

// close stops the stream's timers. The ResponseWriter is not touched from here on.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.opening != nil {
		s.opening.Stop()
	}
	if s.pinging != nil {
		s.pinging.Stop()
	}
	s.end.Lock()
	defer s.end.Unlock()
	s.over = true
	if s.stopPatience != nil {
		s.stopPatience()
	}
}
