package messages

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// maxRepeat is how many bytes of a text are kept to find out whether it is repeated.
const maxRepeat = 1 << 20

// repeat is a text that was cut, and so doesn't count, while it isn't known whether the next answer begins with it.
// Its block is still open. An answer that was cut behind "Hello, wor" and is begun anew looks like this:
//
//	the CLI streams        what becomes of it
//	"Hello, wor", cut      emitted in a block that stays open: repeat{text: "Hello, wor"}
//	"Hello, "              nothing: matched is 7 now
//	"world"                "ld" in the same block, which then is a block of the new answer
//	or "there"             the block is void, and another one begins with "Hello, there"
type repeat struct {
	text    string // what has been emitted
	matched int    // bytes of it that the next answer has repeated
}

// remember keeps the text of the open block.
func (f *Fold) remember(delta gjson.Result) {
	if !f.isText {
		return
	}
	text := delta.Get("text").Str
	if f.isText = len(f.text)+len(text) <= maxRepeat; f.isText {
		f.text = append(f.text, text...)
	}
}

// endAnswer sees to it that of an answer that was cut nothing counts from the abandoned block on. The CLI ends such a
// one without a message_delta; what came before it has kept, and the next answer goes on from there.
func (f *Fold) endAnswer(abandoned int) {
	if f.whole || f.answer == "" {
		return
	}
	f.answer, f.skipping = "", false
	last := len(f.streamed) - 1
	switch {
	case f.repeat != nil: // cut again, and nothing new was said
		f.repeat.matched = 0
	case f.open && f.isText && f.streamed[last].source == abandoned:
		f.repeat = &repeat{text: string(f.text)}
	default:
		f.close()
		f.voidFrom(abandoned)
	}
}

// voidFrom makes the answer's blocks void from the abandoned one on.
func (f *Fold) voidFrom(abandoned int) {
	for _, block := range f.streamed {
		if block.source >= abandoned && abandoned > 0 {
			f.void = append(f.void, block.index)
		}
	}
	if abandoned > 0 {
		return
	}
	for ; f.first < f.next; f.first++ {
		f.void = append(f.void, f.first)
	}
}

func (f *Fold) isVoid(index int) bool { return slices.Contains(f.void, index) }

// repeated takes a part of the text with which the next answer begins: it is passed over as far as it has been
// emitted, and what follows goes on in the same block.
func (f *Fold) repeated(text string) {
	rest := f.repeat.text[f.repeat.matched:]
	switch {
	case strings.HasPrefix(rest, text):
		f.repeat.matched += len(text)
	case strings.HasPrefix(text, rest):
		f.continueBlock()
		f.passText(text[len(rest):])
		f.text = append(f.text, text[len(rest):]...)
	default:
		f.diverge(text)
	}
}

// continueBlock has the open block be the first of the next answer.
func (f *Fold) continueBlock() {
	f.repeat, f.stopped, f.first = nil, false, f.next-1
	f.streamed = append(f.streamed[:0], place{0, f.first})
}

// endRepeat decides that no more of the text is repeated than has been.
func (f *Fold) endRepeat() {
	switch {
	case f.repeat == nil:
	case f.repeat.matched == len(f.repeat.text) && f.repeat.matched > 0:
		f.continueBlock()
		f.stopped = true
	default:
		f.diverge("")
	}
}

// diverge makes what was cut void, and begins a block with what the next answer has said so far.
func (f *Fold) diverge(more string) {
	said := f.repeat.text[:f.repeat.matched] + more
	f.repeat = nil
	f.void = append(f.void, f.next-1)
	f.close()
	f.first = f.next
	if said == "" {
		return
	}
	f.openBlock(`{"type":"text","text":""}`)
	f.passText(said)
	f.text = append(f.text, said...)
	f.isText, f.stopped = true, more == ""
	f.streamed = append(f.streamed[:0], place{0, f.next - 1})
}
