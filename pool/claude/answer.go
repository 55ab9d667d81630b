package claude

import (
	"strings"

	"github.com/tidwall/gjson"
)

// maxAnswer is how much text of a turn's answer is kept, in bytes. Of what is longer the rest is left out.
const maxAnswer = 16 << 20

// maxKept is how much of it there is in all, as it is kept in several ways.
const maxKept = 4 * maxAnswer

const (
	longestID = 64
	// overhead is what a text takes beside itself, in bytes.
	overhead = 64
)

// Answer gathers what the assistant says in a turn of the main conversation, from the turn's lines. Texts that were cut
// and begun anew don't count: of such an answer the CLI writes a message_stop without a message_delta before it, and a
// client that shows deltas has seen them all the same.
//
// The CLI writes an assistant line for each content block as it ends, and `result` has only the last of them.
type Answer struct {
	messages []answered
	deltas   strings.Builder
	shown    shown
	results  strings.Builder
	size     int

	streaming string // id of the message that is being streamed
	whole     bool   // its message_delta has come
	last      string // see Last
}

// answered is one message of the assistant's.
type answered struct {
	id     string
	blocks []string // its texts
}

// Add considers one line of the turn.
func (a *Answer) Add(l *Line) {
	if l.Sub {
		return
	}
	switch l.Type {
	case "stream_event":
		a.event(gjson.Parse(l.event), l.Raw)
	case "assistant":
		if l.Error == "" {
			a.reach(l.UUID)
			a.message(gjson.Parse(l.message))
		}
	case "user":
		a.reach(l.UUID)
	case "result":
		if !l.IsError && a.fits(len(l.Result)) {
			a.results.WriteString(l.Result)
		}
	}
}

// reach notes the last line's uuid. What is kept of a line is a copy: a part of it would keep the whole line.
func (a *Answer) reach(uuid string) {
	if len(uuid) > 0 && len(uuid) <= longestID {
		a.last = strings.Clone(uuid)
	}
}

func (a *Answer) event(event gjson.Result, line []byte) {
	switch event.Get("type").Str {
	case "message_start":
		a.streaming, a.whole = idOf(event.Get("message")), false
	case "content_block_start":
		a.shown.block(int(event.Get("index").Int()), event.Get("content_block.type").Str == "text")
	case "content_block_delta":
		a.delta(event.Get("delta.text").Str)
	case "message_delta":
		a.whole = true
		a.shown.endRepeat()
	case "message_stop":
		if !a.whole {
			a.cut(int(gjson.GetBytes(line, "abandoned_blocks.from_block_index").Int()))
		}
	}
}

// delta takes a part of a text, which is kept twice.
func (a *Answer) delta(text string) {
	if a.fits(2 * len(text)) {
		a.deltas.WriteString(text)
		a.shown.say(text)
	}
}

// cut takes out what doesn't count of a message that was cut: all from the abandoned block on. What came before it the
// CLI has kept, and goes on from there.
func (a *Answer) cut(abandoned int) {
	a.shown.cut(abandoned)
	if n := len(a.messages); abandoned == 0 && n > 0 && a.messages[n-1].id == a.streaming {
		a.messages = a.messages[:n-1]
	}
}

func (a *Answer) message(message gjson.Result) {
	id := idOf(message)
	if n := len(a.messages); n == 0 || a.messages[n-1].id != id {
		if !a.fits(len(id) + 1) {
			return
		}
		a.messages = append(a.messages, answered{id: id})
	}
	m := &a.messages[len(a.messages)-1]
	message.Get("content").ForEach(func(_, block gjson.Result) bool {
		text, isText := block.Get("text").Str, block.Get("type").Str == "text"
		if isText && a.fits(len(text)) {
			m.blocks = append(m.blocks, strings.Clone(text))
		}
		if id != a.streaming && (!isText || a.fits(len(text))) {
			a.shown.unasked(text)
		}
		return true
	})
}

func idOf(message gjson.Result) string {
	id := message.Get("id").Str
	return strings.Clone(id[:min(len(id), longestID)])
}

// fits reports whether there is room for a text of n bytes that is not empty, and takes it.
func (a *Answer) fits(n int) bool {
	a.size += n + overhead
	return n > 0 && a.size <= maxKept
}

// Last is the uuid of the last line that stands in the transcript, as far as lines say so; empty if there is none.
func (a *Answer) Last() string { return a.last }

// All is the text of all messages.
func (a *Answer) All() string {
	var all strings.Builder
	for _, m := range a.messages {
		for _, text := range m.blocks {
			all.WriteString(text)
		}
	}
	return all.String()
}

// Message is the text of the last message.
func (a *Answer) Message() string {
	if len(a.messages) == 0 {
		return ""
	}
	return strings.Join(a.messages[len(a.messages)-1].blocks, "")
}

// Block is the last text.
func (a *Answer) Block() string {
	for i := len(a.messages) - 1; i >= 0; i-- {
		if blocks := a.messages[i].blocks; len(blocks) > 0 {
			return blocks[len(blocks)-1]
		}
	}
	return ""
}

// Deltas is all text that was streamed, in the order in which it came.
func (a *Answer) Deltas() string { return a.deltas.String() }

// Shown is all text that a client of /v1/messages has seen as it was streamed.
func (a *Answer) Shown() string {
	a.shown.endRepeat()
	return a.shown.text.String()
}

// Results is the text of all results, of which there are more than one where the turn waited for work in the
// background.
func (a *Answer) Results() string { return a.results.String() }
