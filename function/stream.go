package function

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"claudepool/infra/logging"
	"claudepool/pool/api"
)

const (
	copyBuffer = 64 << 10
	// hopSilence is how long the hop may carry nothing, not even a ping, before it counts as broken.
	hopSilence = time.Minute
	// lastWrite is how long a client may take to read what the front ends with.
	lastWrite = time.Second
	// lastWords is how long before its deadline a stream is ended explicitly.
	lastWords = 5 * time.Second
)

// Why the front ends a request.
var (
	errBroken  = api.BadGateway("the stream from the instance broke")
	errEnding  = api.Unavailable(time.Second, "the front is shutting down")
	errTooLong = api.Unavailable(time.Second, "the request took longer than the service allows")
)

// stream copies the instance's events to the client as they come, and sees to it that the stream ends explicitly. If the
// hop breaks and the turn goes on without it, the front takes the stream up again.
//
// It is written here because httputil.ReverseProxy panics when the instance dies in the middle of a stream, and
// functions-framework-go turns that panic into a clean end with the panic's text in the body.
func (f *Front) stream(ctx context.Context, w http.ResponseWriter, c call, answer *http.Response) {
	h := w.Header()
	for _, name := range passed {
		if v := answer.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	h.Set(api.HeaderRequestID, c.id)
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	_ = control.Flush()

	out := &relay{front: f, w: w, control: control, last: c.last, tail: make([]byte, 0, len(api.Done)), resumable: answer.Header.Get(api.HeaderTurn) != ""}
	for {
		before := out.last
		gone := out.copy(answer.Body)
		_ = answer.Body.Close()
		switch {
		case gone:
			return
		case out.ended() || ctx.Err() != nil || !out.resumable || out.last == "" || out.last == before:
			out.finish(ctx)
			return
		}
		again := c
		again.path, again.once, again.last = api.PathResume, logging.RequestID(nil), out.last
		again.former = "" // the turn has moved with its user by now, and whoever was left behind isn't asked for
		next, err := f.forward(ctx, again)
		if err == nil && next.StatusCode != http.StatusOK {
			_ = next.Body.Close()
			err = errBroken
		}
		if err != nil {
			out.finish(ctx)
			return
		}
		answer = next
	}
}

// passed are the headers of an instance's answer that the client gets.
var passed = []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", api.HeaderInstance, api.HeaderPID, api.HeaderProcess, api.HeaderTiming, api.HeaderTurn}

// relay is the client's end of a stream.
type relay struct {
	front     *Front
	w         http.ResponseWriter
	control   *http.ResponseController
	resumable bool // only whole events are written, so that the stream can be taken up between any two

	pending []byte // the beginning of an event
	last    string // id of the last event that was written
	tail    []byte // the last bytes that were written
}

// ended reports whether the stream has come to its end mark.
func (o *relay) ended() bool { return string(o.tail) == api.Done }

// copy writes what comes until it ends or breaks, and reports whether the client is gone.
func (o *relay) copy(from io.ReadCloser) (gone bool) {
	buffer := make([]byte, copyBuffer)
	o.pending = nil
	silence := time.AfterFunc(o.front.hopSilence, func() { _ = from.Close() }) // a broken hop like any other
	defer silence.Stop()
	for {
		n, err := from.Read(buffer)
		silence.Stop() // the client may take its time
		if !o.write(o.whole(buffer[:n])) {
			return true
		}
		if err != nil {
			return false
		}
		silence.Reset(o.front.hopSilence)
	}
}

func (o *relay) write(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	o.front.bound(o.control)
	if _, err := o.w.Write(b); err != nil {
		return false
	}
	_ = o.control.Flush()
	o.tail = keepTail(o.tail, b)
	return true
}

// whole returns what is to be written now that chunk has come: all of it, or as far as events are whole.
func (o *relay) whole(chunk []byte) []byte {
	if !o.resumable {
		return chunk
	}
	seen := max(0, len(o.pending)-1) // a long event isn't looked through again with every chunk of it
	o.pending = append(o.pending, chunk...)
	end := bytes.LastIndex(o.pending[seen:], []byte("\n\n"))
	if end += seen + 2; end < seen+2 {
		end = 0
	}
	end += comments(o.pending[end:])
	events := o.pending[:end:end]
	o.pending = o.pending[end:]
	if id, ok := lastID(events); ok {
		o.last = id
	}
	return events
}

// comments is how long the comment lines are that a text begins with.
func comments(text []byte) (n int) {
	for bytes.HasPrefix(text[n:], []byte(":")) {
		line := bytes.IndexByte(text[n:], '\n')
		if line < 0 {
			break
		}
		n += line + 1
	}
	return n
}

// lastID finds the id of the last of whole events that have one. No line break is within an event's data.
func lastID(events []byte) (string, bool) {
	at := bytes.LastIndex(events, []byte("\nid: "))
	if at < 0 && !bytes.HasPrefix(events, []byte("id: ")) {
		return "", false
	}
	id, _, _ := bytes.Cut(events[at+len("\nid: "):], []byte("\n"))
	return string(id), true
}

// finish says so if the instance's stream did not end as it should.
func (o *relay) finish(ctx context.Context) {
	if o.ended() {
		return
	}
	end := append(api.ErrorEvent(orCause(ctx, errBroken)), api.Done...)
	if !bytes.HasSuffix(o.tail, []byte("\n\n")) && !bytes.HasSuffix(o.tail, []byte(api.Ping)) {
		end = append([]byte("\n\n"), end...) // end the event that was cut
	}
	_ = o.control.SetWriteDeadline(time.Now().Add(lastWrite)) // that of the last write may have passed since
	_, _ = o.w.Write(end)
	_ = o.control.Flush()
}

// orCause is why the front ended the request, if it did, else err.
func orCause(ctx context.Context, err error) error {
	var ended *api.Error
	if errors.As(context.Cause(ctx), &ended) {
		return ended
	}
	return err
}

// stopper cuts the request shortly before the client's own deadline, and when the front ends.
func (f *Front) stopper(ctx context.Context, cut context.CancelCauseFunc) (stop func()) {
	stopEnding := context.AfterFunc(f.ending, func() { cut(errEnding) })
	deadline, ok := ctx.Deadline()
	if !ok {
		return func() { stopEnding() }
	}
	timer := time.AfterFunc(time.Until(deadline)-lastWords, func() { cut(errTooLong) })
	return func() {
		stopEnding()
		timer.Stop()
	}
}

// keepTail keeps the last bytes of all that was written, as many as the end mark has.
func keepTail(tail, chunk []byte) []byte {
	if len(chunk) >= cap(tail) {
		return append(tail[:0], chunk[len(chunk)-cap(tail):]...)
	}
	if drop := len(tail) + len(chunk) - cap(tail); drop > 0 {
		tail = tail[:copy(tail, tail[drop:])]
	}
	return append(tail, chunk...)
}
