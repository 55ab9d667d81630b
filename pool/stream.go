package pool

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"claudepool/pool/api"
)

// pingInterval is the longest a stream stays silent, so that nobody on the way takes it for dead. Tests have less time.
var pingInterval = 15 * time.Second

// lastWords is how long a client may take to read what is left once its turn has been ended for it.
const lastWords = 2 * time.Second

// stream is one response as server-sent events. Its methods may be called concurrently with its own pings.
type stream struct {
	requestID, instance string
	came                time.Time
	turn                string // not empty: its events have ids; set before the stream is opened

	mu      sync.Mutex // guards the following and the writing
	w       http.ResponseWriter
	control *http.ResponseController
	receipt *api.Receipt // nil until there is a process
	opened  bool
	closed  bool
	last    time.Time // of the last write
	opening *time.Timer
	pinging *time.Timer
}

func newStream(w http.ResponseWriter, requestID, instance string) *stream {
	return &stream{w: w, control: http.NewResponseController(w), came: time.Now(), requestID: requestID, instance: instance}
}

// openAfter opens the stream when d has passed and nothing else did.
func (s *stream) openAfter(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.openLocked()
	})
}

// open sends the headers. Those about the process are left out where the stream had to be opened before; the receipt
// has them all the same.
func (s *stream) open(receipt api.Receipt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receipt = &receipt
	if s.turn != "" && !s.opened {
		s.w.Header().Set(api.HeaderTurn, s.turn)
	}
	if !s.opened {
		s.w.Header().Set(api.HeaderPID, strconv.Itoa(s.receipt.PID))
		s.w.Header().Set(api.HeaderProcess, s.receipt.Process)
		s.w.Header().Set(api.HeaderTiming, s.receipt.ServerTiming())
	}
	s.openLocked()
}

func (s *stream) receiptOf(h *Handle) api.Receipt {
	queued, ready := h.Waited()
	return api.Receipt{Process: h.Process(), PID: h.PID(), Instance: s.instance, Queue: milliseconds(queued), Ready: milliseconds(ready)}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (s *stream) openLocked() {
	if s.opened || s.closed {
		return
	}
	s.opened = true
	header := s.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache")
	header.Set("X-Accel-Buffering", "no")
	header.Set(api.HeaderRequestID, s.requestID)
	header.Set(api.HeaderInstance, s.instance)
	s.w.WriteHeader(http.StatusOK)
	_ = s.control.Flush()
	s.last = time.Now()
	s.pinging = time.AfterFunc(pingInterval, s.ping)
}

// ping keeps a silent stream alive.
func (s *stream) ping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if silent := time.Since(s.last); silent < pingInterval {
		s.pinging.Reset(pingInterval - silent)
		return
	}
	_ = s.writeLocked([]byte(api.Ping))
	s.pinging.Reset(pingInterval)
}

// hurry frees whoever waits for a client that doesn't read.
func (s *stream) hurry() { _ = s.control.SetWriteDeadline(time.Now().Add(lastWords)) }

// lines sends a batch of lines, each as one event, and flushes once. When ctx ends it doesn't wait for the client any
// longer.
func (s *stream) lines(ctx context.Context, lines [][]byte) error { return s.numbered(ctx, 0, lines) }

// numbered does the same; where the stream can be taken up again, the events have ids that begin with the number from.
func (s *stream) numbered(ctx context.Context, from int, lines [][]byte) error {
	defer context.AfterFunc(ctx, s.hurry)()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receipt.FirstEvent == 0 {
		s.receipt.FirstEvent = milliseconds(time.Since(s.came))
	}
	size := 0
	for _, line := range lines {
		size += len(line) + len(s.turn) + len("id: .1234567\ndata: \n\n")
	}
	events := make([]byte, 0, size)
	for i, line := range lines {
		if s.turn != "" {
			events = append(api.AppendEventID(append(events, "id: "...), s.turn, from+i), '\n')
		}
		events = append(events, "data: "...)
		events = append(events, line...)
		events = append(events, "\n\n"...)
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
		s.receipt.Total = milliseconds(time.Since(s.came))
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
	_ = json.NewEncoder(s.w).Encode(v)
}

// fail ends the response with an error: an event if the stream is open, else a status and a body.
func (s *stream) fail(err error) {
	s.hurry()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened {
		_ = s.writeLocked(s.endLocked(api.ErrorEvent(err)))
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
}
