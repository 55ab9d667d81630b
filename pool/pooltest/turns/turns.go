// Package turns writes what the CLI writes in a turn, as it was seen to, at random: answers that are cut and begun
// anew, or given without having been streamed, several in a turn, with tools, subagents and errors in the middle.
package turns

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Turn is the lines of a turn, and what of them counts.
type Turn struct {
	Lines []string

	Texts, Thoughts string
	Tools           []string // ids of the calls
	Input, Output   int      // tokens of all answers, also of those that were cut
	// the turn fails: with a result, or with an error of the pool's, in place of which the CLI has died
	Failure bool

	r *rand.Rand
	n int // ids given
}

// New returns a turn without lines.
func New(seed uint64) *Turn { return &Turn{r: rand.New(rand.NewPCG(seed, 0))} }

// Random returns a turn of one to four answers.
func Random(seed uint64) *Turn {
	t := New(seed)
	t.line(`{"type":"system","subtype":"init","session_id":"s","model":"claude-haiku-5-5"}`)
	stops := []string{"tool_use", "max_tokens", "refusal", "end_turn"}
	for range t.r.IntN(4) {
		t.Answer(stops[t.r.IntN(3)])
		t.line(`{"type":"user","isSynthetic":true,"message":{"role":"user","content":"Resume directly"},` +
			`"parent_tool_use_id":null}`)
	}
	if t.r.IntN(6) > 0 {
		t.Answer("end_turn")
		t.line(`{"type":"result","subtype":"success","is_error":false,"result":"the last","stop_reason":"end_turn"}`)
		return t
	}
	t.Failure = true
	if t.r.IntN(2) == 0 {
		t.cut(t.blocks())
		t.Lines = append(t.Lines, `{"type":"error","error":{"type":"overloaded_error","message":"no"}}`)
		return t
	}
	t.line(`{"type":"assistant","error":"server_error","message":{"id":"e","content":[{"type":"text","text":"API ` +
		`Error"}]}}`)
	t.line(`{"type":"result","subtype":"success","is_error":true,"api_error_status":529,"result":"overloaded"}`)
	return t
}

func (t *Turn) line(format string, args ...any) {
	if t.r.IntN(12) == 0 {
		t.Lines = append(t.Lines, fmt.Sprintf(`{"type":"assistant","message":{"id":"msg_sub","role":"assistant",`+
			`"content":[{"type":"text",`+
			`"text":"of a subagent %d"}]},"parent_tool_use_id":"toolu_0","uuid":"u"}`, t.n))
	}
	t.Lines = append(t.Lines, fmt.Sprintf(format, args...))
}

func (t *Turn) event(format string, args ...any) {
	t.line(`{"type":"stream_event","event":%s,"session_id":"s","parent_tool_use_id":null,"uuid":"u"}`,
		fmt.Sprintf(format, args...))
}

func (t *Turn) id(kind string) string {
	t.n++
	return fmt.Sprintf("%s_%d", kind, t.n)
}

func quote(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// spoken is one block of an answer; the text of a tool call is its id.
type spoken struct{ kind, text string }

// words are some, of few kinds, so that texts often begin alike.
func (t *Turn) words() string {
	var text strings.Builder
	for range 1 + t.r.IntN(6) {
		text.WriteString([]string{"so ", "\"then\" ", "é\n", "<b> "}[t.r.IntN(4)])
	}
	return text.String()
}

func (t *Turn) blocks() (all []spoken) {
	if t.r.IntN(3) == 0 {
		all = append(all, spoken{"thinking", t.words()})
	}
	for range t.r.IntN(3) {
		all = append(all, spoken{"text", t.words()})
	}
	for range t.r.IntN(3) {
		all = append(all, spoken{"tool_use", t.id("toolu")})
		if t.r.IntN(3) == 0 {
			all = append(all, spoken{"text", t.words()})
		}
	}
	if all == nil {
		all = []spoken{{"text", t.words()}}
	}
	return all
}

// Answer adds one answer: it streams an answer, or gives one without streaming it, after having begun it in vain some
// times.
func (t *Turn) Answer(stop string) {
	blocks := t.blocks()
	unstreamed := false
	for t.r.IntN(3) == 0 {
		t.cut(blocks)
		unstreamed = t.r.IntN(2) == 0
	}
	id := t.id("msg")
	if unstreamed {
		t.whole(id, blocks)
	} else {
		t.start(id)
		var late []string
		for i, b := range blocks {
			t.stream(id, i, b, &late)
			t.count(b)
		}
		t.event(`{"type":"message_delta","delta":{"stop_reason":%q,"stop_sequence":null},"usage":{"output_tokens":7}}`, stop)
		t.Output += 7
		t.event(`{"type":"message_stop"}`)
		for _, tool := range late {
			t.result(tool)
		}
	}
}

func (t *Turn) start(id string) {
	t.event(`{"type":"message_start","message":{"id":%q,"type":"message","role":"assistant","model":"claude-haiku-5-5",`+
		`"content":[],`+
		`"stop_reason":null,"usage":{"input_tokens":11,"output_tokens":1}}}`, id)
	t.Input += 11
}

// stream streams one block. What its tool says comes at once, while the answer goes on, or later.
func (t *Turn) stream(id string, i int, b spoken, late *[]string) {
	t.begin(i, b.kind)
	if len(*late) > 0 && t.r.IntN(2) == 0 { // of a tool that runs while the answer goes on
		t.result((*late)[0])
		*late = (*late)[1:]
	}
	t.deltas(i, b, len(b.text))
	t.repeat(id, b)
	if b.kind == "tool_use" {
		if t.r.IntN(2) == 0 {
			t.result(b.text)
		} else {
			*late = append(*late, b.text)
		}
	}
	t.event(`{"type":"content_block_stop","index":%d}`, i)
}

func (t *Turn) begin(i int, kind string) {
	t.event(`{"type":"content_block_start","index":%d,"content_block":%s}`, i, map[string]string{
		"text": `{"type":"text","text":""}`, "thinking": `{"type":"thinking","thinking":"","signature":""}`,
		"tool_use": `{"type":"tool_use","id":"toolu_x","name":"Bash","input":{}}`}[kind])
}

// deltas streams so many bytes of a block.
func (t *Turn) deltas(i int, b spoken, size int) {
	if b.kind == "tool_use" {
		t.event(`{"type":"content_block_delta","index":%d,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}`, i)
		return
	}
	for text := b.text[:size]; text != ""; {
		n := 1 + t.r.IntN(len(text))
		for n < len(text) && text[n]&0xc0 == 0x80 { // not within a character
			n++
		}
		t.event(`{"type":"content_block_delta","index":%d,"delta":{"type":"%s_delta",%q:%s}}`, i, b.kind, b.kind,
			quote(text[:n]))
		text = text[n:]
	}
	if b.kind == "thinking" && size == len(b.text) {
		t.event(`{"type":"content_block_delta","index":%d,"delta":{"type":"signature_delta","signature":"c2ln"}}`, i)
	}
}

// cut begins an answer that is cut within a block: the one that will be given, or another one, of which the blocks
// before that one are kept.
func (t *Turn) cut(blocks []spoken) {
	if blocks = blocks[:1]; t.r.IntN(2) == 0 {
		blocks = t.blocks()
	}
	id, at := t.id("msg"), t.r.IntN(len(blocks))
	t.start(id)
	var late []string
	for i, b := range blocks[:at] {
		t.stream(id, i, b, &late)
		t.count(b)
	}
	half := blocks[at]
	size := t.r.IntN(len(half.text) + 1)
	for size < len(half.text) && half.text[size]&0xc0 == 0x80 {
		size++
	}
	t.begin(at, half.kind)
	t.deltas(at, half, size)
	t.event(`{"type":"content_block_stop","index":%d}`, at)
	abandoned := fmt.Sprintf(`,"abandoned_blocks":{"api_message_id":%q,"from_block_index":%d}`, id, at)
	if at == 0 && t.r.IntN(3) == 0 {
		abandoned = ""
	}
	t.line(`{"type":"stream_event","event":{"type":"message_stop"},"parent_tool_use_id":null%s}`, abandoned)
	for _, tool := range late {
		t.result(tool)
	}
	t.line(`{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10}`)
}

// repeat writes the line in which the CLI has a block that ends.
func (t *Turn) repeat(id string, b spoken) {
	t.line(`{"type":"assistant","message":{"id":%q,"role":"assistant","model":"claude-haiku-5-5","content":[%s],`+
		`"stop_reason":null,`+
		`"usage":{"input_tokens":11,"output_tokens":1}},"parent_tool_use_id":null,"uuid":"u"}`, id, b.json())
}

func (b spoken) json() string {
	switch b.kind {
	case "thinking":
		return `{"type":"thinking","thinking":` + quote(b.text) + `,"signature":"c2ln"}`
	case "tool_use":
		return `{"type":"tool_use","id":` + quote(b.text) + `,"name":"Bash","input":{"command":"ls"}}`
	}
	return `{"type":"text","text":` + quote(b.text) + `}`
}

// whole writes an answer that wasn't streamed, with its tools' results.
func (t *Turn) whole(id string, blocks []spoken) {
	for _, b := range blocks {
		t.repeat(id, b)
		t.count(b)
	}
	t.Input, t.Output = t.Input+11, t.Output+1
	for _, b := range blocks {
		if b.kind == "tool_use" {
			t.result(b.text)
		}
	}
}

func (t *Turn) count(b spoken) {
	switch b.kind {
	case "text":
		t.Texts += b.text
	case "thinking":
		t.Thoughts += b.text
	default:
		t.Tools = append(t.Tools, b.text)
	}
}

func (t *Turn) result(tool string) {
	if t.r.IntN(20) == 0 {
		return // which is made up for
	}
	t.line(`{"type":"user","message":{"role":"user","content":[{"type":"tool_result","tool_use_id":%q,"is_error":%t,`+
		`"content":%s}]},`+
		`"parent_tool_use_id":null,"uuid":"u"}`, tool, t.r.IntN(2) == 0,
		[]string{`"said"`, `[{"type":"text","text":"said"},{"type":"image","source":{}}]`}[t.r.IntN(2)])
}
