package claude

import (
	"strings"

	"github.com/tidwall/gjson"
)

// maxAnswer is how much text of a turn's answer is kept, in bytes. Of what is longer the rest is left out.
const maxAnswer = 16 << 20

// Answer gathers what the assistant says in a turn of the main conversation, from the turn's lines. Texts of answers that were
// cut and begun anew don't count: of those the CLI writes a message_stop without a message_delta before it, and a client that
// shows deltas has seen them all the same.
//
// The CLI writes an assistant line for each content block as it ends, and `result` has only the last of them.
type Answer struct {
	messages []answered
	deltas   strings.Builder
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

// Take considers one line of the turn.
func (a *Answer) Take(l *Line) {
	if l.Sub {
		return
	}
	switch l.Type {
	case "stream_event":
		a.event(gjson.Parse(l.event))
	case "assistant":
		if l.Error == "" {
			a.last = l.UUID
			a.message(gjson.Parse(l.message))
		}
	case "user":
		if l.UUID != "" {
			a.last = l.UUID
		}
	case "result":
		if !l.IsError && a.fits(l.Result) {
			a.results.WriteString(l.Result)
		}
	}
}

func (a *Answer) event(event gjson.Result) {
	switch event.Get("type").Str {
	case "message_start":
		a.streaming, a.whole = event.Get("message.id").Str, false
	case "content_block_delta":
		if text := event.Get("delta.text").Str; a.fits(text) {
			a.deltas.WriteString(text)
		}
	case "message_delta":
		a.whole = true
	case "message_stop":
		if n := len(a.messages); !a.whole && n > 0 && a.messages[n-1].id == a.streaming {
			a.messages = a.messages[:n-1]
		}
	}
}

func (a *Answer) message(message gjson.Result) {
	id := message.Get("id").Str
	if n := len(a.messages); n == 0 || a.messages[n-1].id != id {
		a.messages = append(a.messages, answered{id: id})
	}
	m := &a.messages[len(a.messages)-1]
	message.Get("content").ForEach(func(_, block gjson.Result) bool {
		if text := block.Get("text").Str; block.Get("type").Str == "text" && a.fits(text) {
			m.blocks = append(m.blocks, text)
		}
		return true
	})
}

// fits reports whether there is room for a text that is not empty, and takes it.
func (a *Answer) fits(text string) bool {
	a.size += len(text)
	return text != "" && a.size <= 3*maxAnswer
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

// Results is the text of all results, of which there are more than one where the turn waited for work in the background.
func (a *Answer) Results() string { return a.results.String() }
