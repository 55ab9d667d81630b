package messages

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// Fold makes one message of a turn, whose main conversation has one answer of the API or many. It is for one
// goroutine.
//
// Text and thinking are passed on as they are streamed. What tools are called with is passed on as a whole, when the
// CLI repeats it in a line of its own, and what they say between blocks. The CLI also streams answers that come to
// nothing and are begun anew, and gives some answers without having streamed them; see repeat.go.
type Fold struct {
	emit       Emit
	hideTools  bool
	paragraphs bool
	id, model  string // of the message, if no answer names one

	started bool
	next    int // index of the next block
	first   int // index of the first block of the present answer
	void    []int

	answer   string // id of the answer that is, or was last, streamed
	streamed []place
	whole    bool   // its end has come
	unasked  string // id of the answer that came last without being streamed
	open     bool   // a streamed block is
	stopped  bool   // and has come to its end: it is closed when it is known that it doesn't go on
	skipping bool   // a block is streamed that is taken from a later line, or not at all

	spoken []int  // blocks in which a text has begun
	text   []byte // of the open block
	isText bool   // the open block is a text, all of which is kept
	repeat *repeat

	waiting []func() // blocks that can't be emitted while another one is open
	calls   []call

	used      usage // summed over the answers
	total     *api.Usage
	stop      string
	sequence  json.RawMessage
	details   json.RawMessage
	failure   *api.Error // that ended the turn
	waits     bool       // the turn waits for what the client's tools say
	outcome   *api.Error // of the last result
	hasResult bool
	scratch   []byte
}

// place is where a streamed block stands in its answer, and where in the message.
type place struct{ source, index int }

// call is one call of a tool.
type call struct {
	id       string
	index    int
	answered bool
}

// usage is what the answers took that were streamed.
type usage struct{ input, output, read, creation int64 }

// NewFold returns a Fold for the answer to a request. id names the message if nothing else does.
func NewFold(asked *Asked, id string, emit Emit) *Fold {
	return &Fold{emit: emit, hideTools: asked.HideTools, paragraphs: asked.Paragraphs, model: asked.Model, id: id}
}

// Take considers one line of the turn.
func (f *Fold) Take(line []byte) {
	if f.failure != nil {
		return
	}
	l := read(line)
	if l.sub {
		return
	}
	switch l.kind {
	case "stream_event":
		f.event(l.event, l.abandoned)
	case "assistant":
		if !l.failed {
			f.assistant(l.message)
		}
	case "user":
		f.results(l.message)
	case "result":
		f.hasResult = true
		f.outcome = failed(gjson.ParseBytes(line))
	case "error":
		f.failure = reported(gjson.ParseBytes(line))
	case api.TypeToolCalls:
		f.clientCalls(gjson.GetBytes(line, "calls"))
	}
}

// isOfInterest are the lines of which more than their type counts.
var isOfInterest = map[string]bool{"stream_event": true, "assistant": true, "user": true, "result": true, "error": true}

// line is what counts of a line.
type line struct {
	kind           string
	event, message gjson.Result
	failed         bool // it stands for an error of the API
	sub            bool // it is of a subagent
	abandoned      int  // of the end of an answer that was cut: its first block that doesn't count
}

func read(raw []byte) (l line) {
	gjson.ParseBytes(raw).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "type":
			l.kind = value.Str
			return isOfInterest[l.kind]
		case "event":
			l.event = value
		case "message":
			l.message = value
		case "error":
			l.failed = value.Type != gjson.Null
		case "parent_tool_use_id":
			l.sub = value.Type == gjson.String
		case "abandoned_blocks":
			l.abandoned = int(value.Get("from_block_index").Int())
		}
		return true
	})
	return l
}

// Total says what the turn took, with subagents and compaction.
func (f *Fold) Total(u *api.Usage) { f.total = u }

// End ends the message, or returns why there is none.
func (f *Fold) End() *api.Error {
	switch {
	case f.failure != nil:
		return f.failure
	case !f.hasResult && !f.waits:
		return api.BadGateway("the turn ended without a result")
	case f.outcome != nil:
		return f.outcome
	}
	f.endRepeat()
	f.start(gjson.Result{})
	f.close()
	f.resultsOfAll(true)
	f.emit("message_delta", f.delta())
	f.emit("message_stop", []byte(`{"type":"message_stop"}`))
	return nil
}

// event considers an event of the API's own stream.
func (f *Fold) event(event gjson.Result, abandoned int) {
	switch event.Get("type").Str {
	case "message_start":
		f.begin(event.Get("message"))
	case "content_block_start":
		f.beginBlock(int(event.Get("index").Int()), event.Get("content_block"))
	case "content_block_delta":
		f.more(event.Get("delta"))
	case "content_block_stop":
		f.stopped, f.skipping = f.open, false
		f.flush()
	case "message_delta":
		f.whole = true
		f.endRepeat()
		f.close()
		f.note(event.Get("delta"), event.Get("usage"))
	case "message_stop":
		f.endAnswer(abandoned)
	}
}

func (f *Fold) begin(answer gjson.Result) {
	f.endAnswer(0) // of which the CLI has not said so
	f.start(answer)
	f.beginAnswer()
	f.answer, f.whole, f.skipping = strings.Clone(answer.Get("id").Str), false, false
	f.used.add(answer.Get("usage"))
}

// beginAnswer has what is emitted next be of another answer.
func (f *Fold) beginAnswer() {
	f.streamed = f.streamed[:0]
	if f.repeat == nil {
		f.close()
		f.first = f.next
	}
}

// start begins the message, with what its first answer says of itself.
func (f *Fold) start(answer gjson.Result) {
	if f.started {
		return
	}
	f.started = true
	if id := answer.Get("id").Str; id != "" {
		f.id = id
	}
	if model := answer.Get("model").Str; model != "" && model != "<synthetic>" {
		f.model = model
	}
	var used usage
	used.add(answer.Get("usage"))
	b := append(f.scratch[:0], `{"type":"message_start","message":{"id":`...)
	b = append(appendText(b, f.id), `,"type":"message","role":"assistant","model":`...)
	b = append(appendText(b, f.model), `,"content":[],"stop_reason":null,"stop_sequence":null,`...)
	b = append(b, `"stop_details":null,"usage":`...)
	f.scratch = append(used.append(b), `}}`...)
	f.emit("message_start", f.scratch)
}

// note keeps how an answer has ended.
func (f *Fold) note(delta, used gjson.Result) {
	if reason := delta.Get("stop_reason").Str; reason != "" {
		f.stop = strings.Clone(reason)
		f.sequence = rawOrNull(delta.Get("stop_sequence"))
		f.details = rawOrNull(delta.Get("stop_details"))
	}
	f.used.output += used.Get("output_tokens").Int()
}

func rawOrNull(value gjson.Result) json.RawMessage {
	if !value.Exists() {
		return json.RawMessage("null")
	}
	return json.RawMessage(value.Raw)
}

// delta is the message_delta of the whole message.
func (f *Fold) delta() []byte {
	reason := stopReason(f.stop)
	if f.waits {
		reason = "tool_use"
	}
	sequence, details := json.RawMessage("null"), json.RawMessage("null")
	if reason == f.stop && f.sequence != nil {
		sequence, details = f.sequence, f.details
	}
	b := append(f.scratch[:0], `{"type":"message_delta","delta":{"stop_reason":`...)
	b = append(appendText(b, reason), `,"stop_sequence":`...)
	b = append(append(b, sequence...), `,"stop_details":`...)
	b = append(append(b, details...), `},"usage":`...)
	b = f.usage().append(b)
	if len(f.void) > 0 {
		list, _ := json.Marshal(f.void) // of numbers: can't fail
		b = append(append(b, `,"claudepool_void":`...), list...)
	}
	f.scratch = append(b, '}')
	return f.scratch
}

func (f *Fold) usage() usage {
	if f.total == nil {
		return f.used
	}
	return usage{f.total.InputTokens, f.total.OutputTokens, f.total.CacheReadTokens, f.total.CacheCreationTokens}
}

// add adds what an answer says as it begins; its output is told at its end.
func (u *usage) add(of gjson.Result) {
	u.input += of.Get("input_tokens").Int()
	u.read += of.Get("cache_read_input_tokens").Int()
	u.creation += of.Get("cache_creation_input_tokens").Int()
}

func (u usage) append(b []byte) []byte {
	for _, n := range []struct {
		name  string
		count int64
	}{{`{"input_tokens":`, u.input}, {`,"cache_creation_input_tokens":`, u.creation},
		{`,"cache_read_input_tokens":`, u.read},
		{`,"output_tokens":`, u.output}} {
		b = strconv.AppendInt(append(b, n.name...), n.count, 10)
	}
	return append(b, '}')
}

func appendText(b []byte, text string) []byte {
	quoted, _ := json.Marshal(text) // a string: can't fail
	return append(b, quoted...)
}
