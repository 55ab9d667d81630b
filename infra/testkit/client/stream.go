package client

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/claude"
)

var (
	// ErrBroken is the error of a stream that ended without its end mark.
	ErrBroken = errors.New("client: the stream broke")
	// ErrFailed is that of a turn whose result is one.
	ErrFailed = errors.New("client: the turn failed")
	// ErrStream is that of a stream that ended with an error event.
	ErrStream = errors.New("client: the stream has an error")
	// ErrNoResult is that of a stream that ended without a result.
	ErrNoResult = errors.New("client: the stream has no result")
)

// What is looked for in a line. Inside of texts the quotation marks would be escaped.
var (
	idField   = []byte("id: ")
	dataField = []byte("data: ")
	receipt   = []byte(": receipt ")
	done      = strings.TrimSpace(api.Done)
	textDelta = []byte(`"text_delta"`)
)

// Event is one of a stream's.
type Event struct {
	ID   string // of turns that can be taken up again
	Data []byte
}

// Type is the event's type.
func (e Event) Type() string { return gjson.GetBytes(e.Data, "type").Str }

// Stream is an answer while it comes. Its methods are for one goroutine.
type Stream struct {
	*http.Response
	FirstToken time.Duration // from the request to the first text; 0 before
	Total      time.Duration // from the request to the end mark; 0 before
	Receipt    gjson.Result  // how the turn was served; it comes before the end mark

	sent  time.Time
	lines *claude.Reader
	event Event
	err   error
}

func newStream(answer *http.Response, sent time.Time) *Stream {
	return &Stream{Response: answer, sent: sent, lines: claude.NewReader(answer.Body)}
}

// NewStream reads an answer that was had in another way.
func NewStream(answer *http.Response) *Stream { return newStream(answer, time.Now()) }

// Close hangs up, unless the stream has come to its end.
func (s *Stream) Close() { _ = s.Body.Close() }

// Next reads the next event, and reports whether there is one.
func (s *Stream) Next() bool {
	s.event = Event{}
	for {
		line, err := s.lines.Next()
		switch {
		case err != nil:
			s.err = fmt.Errorf("%w: %w", ErrBroken, err)
			return false
		case string(line) == done:
			s.end()
			return false
		case bytes.HasPrefix(line, dataField):
			s.event.Data = line[len(dataField):]
			if s.FirstToken == 0 && bytes.Contains(line, textDelta) {
				s.FirstToken = time.Since(s.sent)
			}
			return true
		case bytes.HasPrefix(line, idField):
			s.event.ID = string(line[len(idField):])
		case bytes.HasPrefix(line, receipt):
			s.Receipt = gjson.ParseBytes(line[len(receipt):])
		}
	}
}

// end takes what is behind the mark, without which the connection would not be used again.
func (s *Stream) end() {
	s.Total = time.Since(s.sent)
	_, _ = io.Copy(io.Discard, s.Body)
}

// Event is what Next has read, also where it broke off.
func (s *Stream) Event() Event { return s.event }

// Err is nil if the stream came to its end mark.
func (s *Stream) Err() error { return s.err }

// Answer is a turn as its client saw it.
type Answer struct {
	Text              string // of the result
	Process, Instance string // that served it, see api.Receipt
	PID               int
	FirstToken, Total time.Duration
}

// Answer reads the rest of the stream. The error of a turn that went wrong is one of this package's.
func (s *Stream) Answer() (Answer, error) {
	var a Answer
	failed := ErrNoResult
	for s.Next() {
		switch data := s.event.Data; s.event.Type() {
		case "result":
			a.Text, failed = gjson.GetBytes(data, "result").Str, nil
			if gjson.GetBytes(data, "is_error").Bool() {
				failed = fmt.Errorf("%w: %s", ErrFailed, a.Text)
			}
		case "error":
			failed = fmt.Errorf("%w: %s", ErrStream, data)
		}
	}
	a.FirstToken, a.Total = s.FirstToken, s.Total
	a.Process, a.Instance = s.Receipt.Get("process").Str, s.Receipt.Get("instance").Str
	a.PID = int(s.Receipt.Get("pid").Int())
	return a, cmp.Or(s.err, failed)
}
