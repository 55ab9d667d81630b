package function

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"claudepool/pool/api"
)

const (
	copyBuffer = 64 << 10
	// hopSilence is how long the hop may carry nothing, not even a ping, before it counts as broken.
	hopSilence = time.Minute
	// lastWords is how long before its deadline a stream is ended explicitly.
	lastWords = 5 * time.Second
)

// Why the front ends a request.
var (
	errBroken  = api.BadGateway("the stream from the instance broke")
	errEnding  = api.Unavailable(time.Second, "the front is shutting down")
	errTooLong = api.Unavailable(time.Second, "the request took longer than the service allows")
)

// stream copies the instance's events to the client as they come, and sees to it that the stream ends explicitly.
//
// It is written here because httputil.ReverseProxy panics when the instance dies in the middle of a stream, and
// functions-framework-go turns that panic into a clean end with the panic's text in the body.
func (f *Front) stream(ctx context.Context, w http.ResponseWriter, id string, answer *http.Response, cut context.CancelCauseFunc) {
	h := w.Header()
	for _, name := range []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", api.HeaderInstance, api.HeaderPID, api.HeaderProcess, api.HeaderTiming} {
		if v := answer.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	h.Set(api.HeaderRequestID, id)
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	_ = control.Flush()

	// A client that has stopped reading must not hold up the end of the front.
	defer context.AfterFunc(f.ending, func() { _ = control.SetWriteDeadline(time.Now().Add(time.Second)) })()
	silence := time.AfterFunc(hopSilence, func() { cut(errBroken) })
	defer silence.Stop()
	buffer := make([]byte, copyBuffer)
	tail := make([]byte, 0, len(api.Done))
	for {
		n, err := answer.Body.Read(buffer)
		silence.Stop() // the client may take its time
		if n > 0 {
			if f.ending.Err() == nil {
				_ = control.SetWriteDeadline(time.Now().Add(f.clientTimeout))
			}
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			_ = control.Flush()
			tail = keepTail(tail, buffer[:n])
		}
		if err != nil {
			finish(ctx, w, string(tail))
			return
		}
		silence.Reset(hopSilence)
	}
}

// finish says so if the instance's stream did not end as it should.
func finish(ctx context.Context, w http.ResponseWriter, tail string) {
	if tail == api.Done {
		return
	}
	reason := errBroken
	_ = errors.As(context.Cause(ctx), &reason)
	end := append(api.ErrorEvent(reason), api.Done...)
	if !bytes.HasSuffix([]byte(tail), []byte("\n\n")) {
		end = append([]byte("\n\n"), end...) // end the event that was cut
	}
	_, _ = w.Write(end)
	_ = http.NewResponseController(w).Flush()
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
