package function

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"claudepool/infra/logging"
	"claudepool/pool/api"
)

const (
	// copyBuffer is how much is read of a stream at a time, and quietBuffer while little comes: channels are open for long
	// with nothing to tell.
	copyBuffer  = 64 << 10
	quietBuffer = 4 << 10
	// maxEvent is how large one can be, in bytes: as the longest line of a CLI.
	maxEvent = 64 << 20
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

	errManyEvents = api.BadGateway("the turn has an event that is too large now")
)

// stream copies the instance's events to the client as they come, and sees to it that the stream ends explicitly. If
// the hop breaks and the turn goes on without it, the front takes the stream up again.
//
// It is written here because httputil.ReverseProxy panics when the instance dies in the middle of a stream, and
// functions-framework-go turns that panic into a clean end with the panic's text in the body.
func (f *Front) stream(ctx context.Context, client sink, c call, answer *http.Response) {
	client.open(answer.Header)
	resumable := answer.Header.Get(api.HeaderTurn) != ""
	out := &relay{front: f, client: client, user: c.user, last: c.last, hasIDs: resumable,
		isWhole: resumable || client.wantsWhole()}
	defer out.charge(0)
	for {
		before := out.last
		gone := out.copy(answer.Body)
		_ = answer.Body.Close()
		switch {
		case gone:
			return
		case client.ended() || ctx.Err() != nil || !resumable || out.last == "" || out.last == before:
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

// sink is the client's end of a stream.
type sink interface {
	// open begins, with the headers of the instance's answer.
	open(from http.Header)
	// wantsWhole reports whether write is to get whole events only.
	wantsWhole() bool
	// write takes what has come, and reports whether there is any use in more.
	write(events []byte) bool
	// ended reports whether the stream has come to its end mark.
	ended() bool
	// fail ends a stream that hasn't.
	fail(err error)
}

// relay passes an instance's stream on to the client.
type relay struct {
	front   *Front
	client  sink
	user    string
	hasIDs  bool // the stream can be taken up again
	isWhole bool // only whole events are passed on, so that the stream can be taken up between any two

	pending []byte // the beginning of an event
	held    int64  // bytes of it that are charged
	last    string // id of the last event that was passed on
}

// copy writes what comes until it ends or breaks, and reports whether the client is gone.
func (o *relay) copy(from io.ReadCloser) (gone bool) {
	buffer := make([]byte, quietBuffer)
	o.pending = nil
	silence := time.AfterFunc(o.front.hopSilence, func() { _ = from.Close() }) // a broken hop like any other
	defer silence.Stop()
	for {
		n, err := from.Read(buffer)
		silence.Stop() // the client may take its time
		if events := o.whole(buffer[:n]); len(events) > 0 && !o.client.write(events) {
			return true
		}
		if !o.charge(len(o.pending)) {
			o.client.fail(errManyEvents)
			return true
		}
		if err != nil {
			return false
		}
		buffer = o.fitting(buffer, n)
		silence.Reset(o.front.hopSilence)
	}
}

// fitting is a buffer for what follows so many bytes in this one: a large one where much comes, a small one where the
// instance had nothing to tell but that it is there.
func (o *relay) fitting(buffer []byte, n int) []byte {
	switch {
	case len(buffer) < copyBuffer && n >= len(buffer)/2:
		return make([]byte, copyBuffer)
	case len(buffer) > quietBuffer && string(buffer[:n]) == api.Ping:
		o.pending = bytes.Clone(o.pending) // its array is as large as what came before
		return make([]byte, quietBuffer)
	}
	return buffer
}

// charge charges so many bytes of an event, in the place of those before, to what all of them may take. It reports
// whether there is room.
func (o *relay) charge(size int) bool {
	more := max(0, int64(size)-unchargedBytes) - o.held
	switch {
	case more == 0:
		return true
	case more < 0:
		o.front.events.give(o.user, -more)
	case !o.front.events.take(o.user, more):
		return false
	}
	o.held += more
	return true
}

// whole returns what is to be passed on now that chunk has come: all of it, or as far as events are whole.
func (o *relay) whole(chunk []byte) []byte {
	if !o.isWhole {
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
	if end > unchargedBytes {
		o.pending = bytes.Clone(o.pending) // or the array of a large event would stay
	}
	if o.hasIDs {
		o.last = cmp.Or(lastID(events), o.last)
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

// lastID finds the id of the last of whole events that have one, else "". No line break is within an event's data.
func lastID(events []byte) string {
	at := bytes.LastIndex(events, []byte("\nid: "))
	if at < 0 && !bytes.HasPrefix(events, []byte("id: ")) {
		return ""
	}
	id, _, _ := bytes.Cut(events[at+len("\nid: "):], []byte("\n"))
	return string(id)
}

// finish says so if the instance's stream did not end as it should.
func (o *relay) finish(ctx context.Context) {
	if !o.client.ended() {
		o.client.fail(orCause(ctx, errBroken))
	}
}

// orCause is why the front ended the request, if it did, else err.
func orCause(ctx context.Context, err error) error {
	var ended *api.Error
	if errors.As(context.Cause(ctx), &ended) {
		return ended
	}
	return err
}

// cutBeforeDeadline cuts the request shortly before the client's own deadline, and when the front ends.
func (f *Front) cutBeforeDeadline(ctx context.Context, cut context.CancelCauseFunc) (stop func()) {
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
