package function

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"claudepool/function/messages"
	"claudepool/infra/logging"
	"claudepool/pool/api"
)

const (
	// maxMessage is how many bytes an answer may have that is not streamed: it is kept until it is whole.
	maxMessage = 32 << 20
	// quiet is how long a stream may be silent while the turn goes on in ways that its client doesn't see.
	quiet = 15 * time.Second
)

// messagesAPI begins a turn as the Messages API does.
func (f *Front) messagesAPI(w http.ResponseWriter, r *http.Request) {
	f.translated(w, r, func(body []byte) (req *api.Request, pooled []byte, as answering, err error) {
		req, pooled, asked, err := messages.Decode(body, r.Header)
		return req, pooled, answering{asked, messages.Frames{}}, err
	})
}

// answering is how a request is answered.
type answering struct {
	asked *messages.Asked
	shape shape
}

// shape is what another API than the Messages API makes of that one's answers.
type shape interface {
	// Event appends what an event of the stream becomes.
	Event(to []byte, name string, data []byte) []byte
	// Whole is what a message becomes that is not streamed.
	Whole(message []byte) []byte
}

// translated begins a turn as another API than the pooled contract does: decode translates the request into that, whose
// body then is pooled.
func (f *Front) translated(w http.ResponseWriter, r *http.Request,
	decode func(body []byte) (req *api.Request, pooled []byte, as answering, err error)) {
	id := logging.RequestID(r.Header)
	r.Header.Set(api.HeaderRequestID, id) // the same wherever it is asked for from here on
	var pooled []byte
	var as answering
	var answer *reply
	var user string
	defer func() { answer.release() }()
	f.serve(w, r, kind{
		decode: func(body []byte) (req *api.Request, err error) {
			if req, pooled, as, err = decode(body); err == nil {
				user = req.UserID()
			}
			return req, err
		},
		begin: func(sent *api.Body) (call, error) {
			original := originalOf(r.Header, sent.Bytes)
			sent.Bytes, pooled = pooled, nil
			if ignored := as.asked.Ignored; len(ignored) > 0 {
				w.Header().Set(messages.HeaderIgnored, strings.Join(ignored, ", "))
			}
			return call{path: api.PathMessages, key: key{original: original}}, nil
		},
		sink: func() sink { answer = f.reply(w, id, user, as); return answer },
	})
}

// reply is a sink that answers as another API does, with a stream or with the whole message.
type reply struct {
	front   *Front
	id      string // of the request
	user    string
	w       http.ResponseWriter
	control *http.ResponseController
	from    http.Header // of the instance's answer

	shape     shape
	fold      *messages.Fold
	collected *messages.Collector // nil in a stream
	held      int64               // bytes of what is collected that are charged to all answers' memory
	pending   []byte              // of the stream, to be written at once
	receipt   []byte              // how the turn was served, as a comment line
	served    api.Receipt         // the same
	notBegun  bool                // nothing was run, says the instance
	opened    bool                // the stream's status has been sent
	over      bool                // all has been said
	last      time.Time           // of the last write
}

func (f *Front) reply(w http.ResponseWriter, id, user string, as answering) *reply {
	r := &reply{front: f, id: id, user: user, w: w, control: http.NewResponseController(w), shape: as.shape,
		last: time.Now()}
	emit := r.event
	if !as.asked.Stream {
		r.collected = messages.NewCollector(maxMessage)
		emit = r.collected.Take
	}
	r.fold = messages.NewFold(as.asked, "msg_"+strings.TrimPrefix(id, "req_"), emit)
	return r
}

// open only notes the headers: until there is something to be seen of the turn, its failure can have a status.
func (r *reply) open(from http.Header) {
	r.from = from
	if r.collected != nil {
		r.front.unlimitWrite(r.control)
	}
}

func (r *reply) wantsWhole() bool { return true }

func (r *reply) ended() bool { return r.over }

// write takes whole events of the pooled contract, and comments.
func (r *reply) write(events []byte) bool {
	for line := range bytes.Lines(events) {
		if r.over {
			return true
		}
		r.line(bytes.TrimSuffix(line, []byte("\n")))
	}
	switch {
	case r.over:
		return true
	case r.collected != nil:
		if err := r.charge(); err != nil {
			r.fail(err)
			return false
		}
		return true
	case len(r.pending) == 0 && time.Since(r.last) > quiet:
		r.ping()
	}
	return r.flush()
}

// charge charges what has been collected to what all answers may take. Its error says that it is too much.
func (r *reply) charge() error {
	if r.collected.Full() {
		return api.BadGateway("the answer is larger than %d bytes: it has to be streamed", maxMessage)
	}
	more := int64(r.collected.Size()) - unchargedBytes - r.held
	if more <= 0 {
		return nil
	}
	if !r.front.kept.take(r.user, more) {
		return api.Overloaded(0, "too many large answers are kept until they are whole: this one has to be streamed")
	}
	r.held += more
	return nil
}

// release gives back the room that the answer took. It may be called on nil.
func (r *reply) release() {
	if r != nil && r.held > 0 {
		r.front.kept.give(r.user, r.held)
		r.held = 0
	}
}

func (r *reply) line(line []byte) {
	data, ok := bytes.CutPrefix(line, []byte("data: "))
	switch {
	case string(line) == strings.TrimSuffix(api.Ping, "\n"):
		r.ping()
	case string(line) == strings.TrimSuffix(api.NotBegun, "\n"):
		r.notBegun = true
	case bytes.HasPrefix(line, []byte(receipt)):
		r.note(line)
	case !ok:
	case string(line) == strings.TrimSpace(api.Done):
		r.end()
	default:
		r.fold.Take(data)
	}
}

// receipt is what the comment with the receipt begins with.
const receipt = ": receipt "

// note keeps the receipt, which stands in the stream as in the pooled contract's.
func (r *reply) note(line []byte) {
	if json.Unmarshal(line[len(receipt):], &r.served) == nil && r.served.Usage != nil {
		r.fold.Total(r.served.Usage)
	}
	r.receipt = append(bytes.Clone(line), '\n')
}

func (r *reply) ping() {
	if r.collected == nil {
		r.event("ping", []byte(`{"type":"ping"}`))
	}
}

func (r *reply) event(name string, data []byte) {
	r.pending = r.shape.Event(r.pending, name, data)
}

// end ends the answer when the turn has come to its end.
func (r *reply) end() {
	before := len(r.pending)
	r.pending = append(r.pending, r.receipt...)
	if err := r.fold.End(); err != nil {
		r.pending = r.pending[:before]
		r.fail(err)
		return
	}
	r.over = true
	if r.collected == nil {
		r.flush()
		return
	}
	r.whole()
}

// whole answers with the message that has been collected.
func (r *reply) whole() {
	if err := r.charge(); err != nil { // the turn may have come to its end with the event that is too much
		r.fail(err)
		return
	}
	r.front.limitWrite(r.control)
	if r.served.Process != "" { // the instance's headers may have gone before there was one, or name one that has died
		r.from.Set(api.HeaderPID, strconv.Itoa(r.served.PID))
		r.from.Set(api.HeaderProcess, r.served.Process)
	}
	r.head("application/json")
	_ = r.front.writeAll(r.w, r.control, r.shape.Whole(r.collected.Message()))
}

// head sends the headers.
func (r *reply) head(contentType string) {
	header := r.w.Header()
	passHeaders(header, r.from)
	header.Set("Content-Type", contentType)
	header.Set("X-Content-Type-Options", "nosniff")
	api.SetRequestID(header, r.id)
	header.Set(api.HeaderShouldRetry, "false") // there are clients that ask again when a good answer breaks off
	r.w.WriteHeader(http.StatusOK)
}

// flush writes what there is of the stream, and reports whether the client is there.
func (r *reply) flush() bool {
	if len(r.pending) == 0 {
		return true
	}
	r.front.limitWrite(r.control)
	return r.send()
}

func (r *reply) send() bool {
	if !r.opened {
		r.opened = true
		passHeaders(r.w.Header(), r.from, "Cache-Control", "X-Accel-Buffering")
		r.head("text/event-stream")
	}
	err := r.front.writeAll(r.w, r.control, r.pending)
	r.pending, r.last = r.pending[:0], time.Now()
	return err == nil && r.control.Flush() == nil
}

// fail ends the answer with an error, which has a status if nothing of the turn has been seen. It may have been run.
func (r *reply) fail(err error) {
	r.over = true
	_ = r.control.SetWriteDeadline(time.Now().Add(lastWrite))
	failure := *api.Known(err)
	failure.Begun = !r.notBegun
	if r.notBegun && failure.Status >= http.StatusTooManyRequests {
		failure.RetryAfter = max(failure.RetryAfter, time.Second)
	}
	if !r.opened && (r.collected != nil || len(r.pending) == 0) {
		passHeaders(r.w.Header(), r.from)
		api.WriteError(r.w, r.id, &failure)
		return
	}
	r.event("error", api.Envelope(r.id, &failure))
	r.send()
}
