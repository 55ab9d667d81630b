package function

import (
	"bytes"
	"net/http"
	"time"

	"claudepool/pool/api"
)

// passing is a sink that passes the instance's stream on as it is.
type passing struct {
	front   *Front
	id      string // of the request
	w       http.ResponseWriter
	control *http.ResponseController
	tail    []byte // the last bytes that were written
}

func (f *Front) pass(w http.ResponseWriter, id string) sink {
	return &passing{front: f, id: id, w: w, control: http.NewResponseController(w), tail: make([]byte, 0, len(api.Done))}
}

func (p *passing) open(from http.Header) {
	passHeaders(p.w.Header(), from, "Content-Type", "Cache-Control", "X-Accel-Buffering")
	api.SetRequestID(p.w.Header(), p.id)
	p.w.WriteHeader(http.StatusOK)
	_ = p.control.Flush()
}

// passHeaders sets those headers of an instance's answer that tell how it is served, and some more.
func passHeaders(to, from http.Header, more ...string) {
	for _, name := range append(more, api.HeaderInstance, api.HeaderPID, api.HeaderProcess, api.HeaderTiming,
		api.HeaderTurn) {
		if v := from.Values(name); len(v) > 0 && v[0] != "" {
			to[name] = v[:1:1] // names are constants in their canonical form
		}
	}
}

func (p *passing) wantsWhole() bool { return false }

func (p *passing) write(b []byte) bool {
	p.front.limitWrite(p.control)
	if err := p.front.writeAll(p.w, p.control, b); err != nil {
		return false
	}
	_ = p.control.Flush()
	p.tail = keepTail(p.tail, b)
	return true
}

func (p *passing) ended() bool { return string(p.tail) == api.Done }

func (p *passing) fail(err error) {
	end := append(api.ErrorEvent(err), api.Done...)
	if !bytes.HasSuffix(p.tail, []byte("\n\n")) && !bytes.HasSuffix(p.tail, []byte(api.Ping)) {
		end = append([]byte("\n\n"), end...) // end the event that was cut
	}
	_ = p.control.SetWriteDeadline(time.Now().Add(lastWrite)) // that of the last write may have passed since
	_, _ = p.w.Write(end)
	_ = p.control.Flush()
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
