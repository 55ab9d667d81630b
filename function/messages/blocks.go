package messages

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// beginBlock begins a block that is streamed.
func (f *Fold) beginBlock(source int, block gjson.Result) {
	kind := block.Get("type").Str
	f.skipping = kind == "tool_use" || f.hideTools && !isSaid(kind)
	if f.skipping {
		f.endRepeat()
		f.close()
		return
	}
	if f.repeat != nil && kind == "text" && source == 0 {
		return // its text tells whether it is another block
	}
	f.endRepeat()
	f.openBlock(block.Raw)
	f.isText = kind == "text"
	f.streamed = append(f.streamed, place{source, f.next - 1})
}

// isSaid reports whether a block is what the assistant says or thinks itself.
func isSaid(kind string) bool {
	return kind == "text" || kind == "thinking" || kind == "redacted_thinking"
}

// openBlock begins the next block, and ends the one before.
func (f *Fold) openBlock(raw string) {
	f.close()
	f.text = f.text[:0]
	f.emitStart(raw)
	f.open, f.stopped = true, false
}

// more passes on a part of the open block.
func (f *Fold) more(delta gjson.Result) {
	switch {
	case f.skipping:
	case f.repeat != nil:
		f.repeated(delta.Get("text").Str)
	case f.open:
		f.part(delta.Get("text").Str)
		f.passDelta(delta.Raw)
		f.remember(delta)
	}
}

func (f *Fold) passDelta(raw string) {
	b := append(f.scratch[:0], `{"type":"content_block_delta","index":`...)
	b = append(strconv.AppendInt(b, int64(f.next-1), 10), `,"delta":`...)
	f.scratch = append(append(b, raw...), '}')
	f.emit("content_block_delta", f.scratch)
}

// part puts a blank line before the first text of a block, if one of the answers before has said something that counts.
func (f *Fold) part(text string) {
	index := f.next - 1
	if !f.paragraphs || text == "" || slices.Contains(f.spoken, index) {
		return
	}
	if slices.ContainsFunc(f.spoken, func(i int) bool { return i < f.first && !f.isVoid(i) }) {
		f.passDelta(`{"type":"text_delta","text":"\n\n"}`)
	}
	f.spoken = append(f.spoken, index)
}

func (f *Fold) passText(text string) {
	if text == "" {
		return
	}
	f.part(text)
	f.passDelta(string(append(appendText([]byte(`{"type":"text_delta","text":`), text), '}')))
}

// close ends the open block, and emits those that had to wait for that.
func (f *Fold) close() {
	f.closeOpen()
	f.flush()
}

// flush emits what waits, if no block is open that may go on.
func (f *Fold) flush() {
	if len(f.waiting) == 0 || f.open && !f.stopped || f.repeat != nil {
		return
	}
	waiting := f.waiting
	f.waiting = nil
	f.closeOpen()
	for _, emit := range waiting {
		emit()
	}
}

func (f *Fold) closeOpen() {
	if f.open {
		f.open, f.stopped, f.isText = false, false, false
		f.emitStop()
	}
}

func (f *Fold) emitStart(raw string) {
	b := append(f.scratch[:0], `{"type":"content_block_start","index":`...)
	b = append(strconv.AppendInt(b, int64(f.next), 10), `,"content_block":`...)
	f.scratch = append(append(b, raw...), '}')
	f.next++
	f.emit("content_block_start", f.scratch)
}

func (f *Fold) emitStop() {
	b := append(f.scratch[:0], `{"type":"content_block_stop","index":`...)
	f.scratch = append(strconv.AppendInt(b, int64(f.next-1), 10), '}')
	f.emit("content_block_stop", f.scratch)
}

// assistant considers a line that repeats blocks of a streamed answer, or has an answer that was not streamed.
func (f *Fold) assistant(message gjson.Result) {
	id := message.Get("id").Str
	streamed := id != "" && id == f.answer
	if !streamed && (id == "" || id != f.unasked) {
		f.beginUnstreamed(message, id)
	}
	message.Get("content").ForEach(func(_, block gjson.Result) bool {
		switch kind := block.Get("type").Str; {
		case kind == "tool_use":
			f.call(block)
		case streamed:
		case isSaid(kind) || !f.hideTools:
			f.emitWhole(kind, block)
		default:
			f.endRepeat()
		}
		return true
	})
	if !streamed {
		f.note(message, gjson.Result{})
	}
}

// beginUnstreamed begins an answer that was not streamed.
func (f *Fold) beginUnstreamed(message gjson.Result, id string) {
	f.endAnswer(0)
	f.answer = ""
	f.unasked = strings.Clone(id)
	f.start(message)
	f.beginAnswer()
	f.used.add(message.Get("usage"))
	f.used.output += message.Get("usage.output_tokens").Int()
}

// emitWhole emits a block that was not streamed.
func (f *Fold) emitWhole(kind string, block gjson.Result) {
	switch {
	case kind == "text" && f.repeat != nil:
		f.repeated(block.Get("text").Str)
		f.endRepeat()
	case kind == "text":
		f.openBlock(emptyText(block))
		f.passText(block.Get("text").Str)
	case kind == "thinking":
		f.endRepeat()
		f.openBlock(`{"type":"thinking","thinking":"","signature":""}`)
		f.passDelta(`{"type":"thinking_delta","thinking":` + rawOr(block.Get("thinking"), `""`) + `}`)
		f.passDelta(`{"type":"signature_delta","signature":` + rawOr(block.Get("signature"), `""`) + `}`)
	default:
		f.endRepeat()
		f.openBlock(block.Raw)
	}
	f.close()
}

// emptyText is how a text block begins.
func emptyText(block gjson.Result) string {
	if citations := block.Get("citations"); citations.IsArray() {
		return `{"type":"text","text":"","citations":` + citations.Raw + `}`
	}
	return `{"type":"text","text":""}`
}

func rawOr(value gjson.Result, other string) string {
	if !value.Exists() {
		return other
	}
	return value.Raw
}

// call emits the call of a tool.
func (f *Fold) call(block gjson.Result) {
	f.endRepeat() // also where it is hidden: what an answer says behind a call repeats nothing
	id := block.Get("id").Str
	isClients := strings.HasPrefix(block.Get("name").Str, api.ToolPrefix) // of which clientCalls tells
	if f.hideTools || isClients || id == "" || f.find(id) >= 0 {
		return
	}
	b := append([]byte(`{"type":"mcp_tool_use","id":`), appendText(nil, id)...)
	b = append(appendText(append(b, `,"name":`...), block.Get("name").Str), `,"server_name":"`+ServerName+`","input":`...)
	raw := string(append(append(b, rawOr(block.Get("input"), `{}`)...), '}'))
	f.whenClosed(func() {
		f.calls = append(f.calls, call{id: strings.Clone(id), index: f.next})
		f.emitStart(raw)
		f.emitStop()
	})
}

func (f *Fold) find(id string) int {
	for i := range f.calls {
		if f.calls[i].id == id {
			return i
		}
	}
	return -1
}

// whenClosed emits a whole block now, or when the open one has come to its end.
func (f *Fold) whenClosed(emit func()) {
	f.waiting = append(f.waiting, emit)
	f.flush()
}

// results emits what tools said.
func (f *Fold) results(message gjson.Result) {
	message.Get("content").ForEach(func(_, block gjson.Result) bool {
		if block.Get("type").Str != "tool_result" || f.hideTools {
			return true
		}
		id, isError, content := block.Get("tool_use_id").Str, block.Get("is_error").Bool(), texts(block.Get("content"))
		f.endRepeat()
		f.whenClosed(func() { f.result(id, isError, content) })
		return true
	})
}

// resultsOfAll emits an empty result for each call that has none.
func (f *Fold) resultsOfAll(isError bool) {
	for _, c := range f.calls {
		if !c.answered {
			f.result(c.id, isError, `[]`)
		}
	}
}

// result emits what a tool said whose call has been emitted and still counts.
func (f *Fold) result(id string, isError bool, content string) {
	i := f.find(id)
	if i < 0 || f.calls[i].answered || f.isVoid(f.calls[i].index) {
		return
	}
	f.calls[i].answered = true
	b := appendText([]byte(`{"type":"mcp_tool_result","tool_use_id":`), id)
	b = strconv.AppendBool(append(b, `,"is_error":`...), isError)
	f.emitStart(string(append(append(append(b, `,"content":`...), content...), '}')))
	f.emitStop()
}

// texts is a tool's result as text blocks, which is all that such a block may hold.
func texts(content gjson.Result) string {
	type text struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	all := []text{}
	if content.Type == gjson.String {
		all = append(all, text{"text", content.Str})
	}
	if content.IsArray() {
		content.ForEach(func(_, block gjson.Result) bool {
			kind := block.Get("type").Str
			if kind == "text" {
				all = append(all, text{"text", block.Get("text").Str})
			} else {
				all = append(all, text{"text", "[" + kind + "]"})
			}
			return true
		})
	}
	raw, _ := json.Marshal(all) // of strings: can't fail
	return string(raw)
}
