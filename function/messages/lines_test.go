package messages

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// cli writes the lines that the CLI writes in a turn, as it was seen to, at random. What of them counts is noted
// beside.
type cli struct {
	r     *rand.Rand
	lines []string
	n     int // ids given

	texts, thoughts string // that count
	tools           []string
	input, output   int  // tokens of answers, also of those that were cut
	failure         bool // the turn fails
}

func (c *cli) line(format string, args ...any) {
	if c.r.IntN(12) == 0 {
		c.lines = append(c.lines, fmt.Sprintf(`{"type":"assistant","message":{"id":"msg_sub","role":"assistant",`+
			`"content":[{"type":"text",`+
			`"text":"of a subagent %d"}]},"parent_tool_use_id":"toolu_0","uuid":"u"}`, c.n))
	}
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

func (c *cli) event(format string, args ...any) {
	c.line(`{"type":"stream_event","event":%s,"session_id":"s","parent_tool_use_id":null,"uuid":"u"}`,
		fmt.Sprintf(format, args...))
}

func (c *cli) id(kind string) string {
	c.n++
	return fmt.Sprintf("%s_%d", kind, c.n)
}

func quote(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// spoken is one block of an answer; the text of a tool call is its id.
type spoken struct{ kind, text string }

// words are some, of few kinds, so that texts often begin alike.
func (c *cli) words() string {
	var text strings.Builder
	for range 1 + c.r.IntN(6) {
		text.WriteString([]string{"so ", "\"then\" ", "é\n", "<b> "}[c.r.IntN(4)])
	}
	return text.String()
}

func (c *cli) blocks() (all []spoken) {
	if c.r.IntN(3) == 0 {
		all = append(all, spoken{"thinking", c.words()})
	}
	for range c.r.IntN(3) {
		all = append(all, spoken{"text", c.words()})
	}
	for range c.r.IntN(3) {
		all = append(all, spoken{"tool_use", c.id("toolu")})
		if c.r.IntN(3) == 0 {
			all = append(all, spoken{"text", c.words()})
		}
	}
	if all == nil {
		all = []spoken{{"text", c.words()}}
	}
	return all
}

// answer streams an answer, or gives one without streaming it, after having begun it in vain some times.
func (c *cli) answer(stop string) {
	blocks := c.blocks()
	unstreamed := false
	for c.r.IntN(3) == 0 {
		c.cut(blocks)
		unstreamed = c.r.IntN(2) == 0
	}
	id := c.id("msg")
	if unstreamed {
		c.whole(id, blocks)
	} else {
		c.start(id)
		var late []string
		for i, b := range blocks {
			c.stream(id, i, b, &late)
			c.count(b)
		}
		c.event(`{"type":"message_delta","delta":{"stop_reason":%q,"stop_sequence":null},"usage":{"output_tokens":7}}`, stop)
		c.output += 7
		c.event(`{"type":"message_stop"}`)
		for _, tool := range late {
			c.result(tool)
		}
	}
}

func (c *cli) start(id string) {
	c.event(`{"type":"message_start","message":{"id":%q,"type":"message","role":"assistant","model":"claude-haiku-5-5",`+
		`"content":[],`+
		`"stop_reason":null,"usage":{"input_tokens":11,"output_tokens":1}}}`, id)
	c.input += 11
}

// stream streams one block. What its tool says comes at once, while the answer goes on, or later.
func (c *cli) stream(id string, i int, b spoken, late *[]string) {
	c.begin(i, b.kind)
	if len(*late) > 0 && c.r.IntN(2) == 0 { // of a tool that runs while the answer goes on
		c.result((*late)[0])
		*late = (*late)[1:]
	}
	c.deltas(i, b, len(b.text))
	c.repeat(id, b)
	if b.kind == "tool_use" {
		if c.r.IntN(2) == 0 {
			c.result(b.text)
		} else {
			*late = append(*late, b.text)
		}
	}
	c.event(`{"type":"content_block_stop","index":%d}`, i)
}

func (c *cli) begin(i int, kind string) {
	c.event(`{"type":"content_block_start","index":%d,"content_block":%s}`, i, map[string]string{
		"text": `{"type":"text","text":""}`, "thinking": `{"type":"thinking","thinking":"","signature":""}`,
		"tool_use": `{"type":"tool_use","id":"toolu_x","name":"Bash","input":{}}`}[kind])
}

// deltas streams so many bytes of a block.
func (c *cli) deltas(i int, b spoken, size int) {
	if b.kind == "tool_use" {
		c.event(`{"type":"content_block_delta","index":%d,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}`, i)
		return
	}
	for text := b.text[:size]; text != ""; {
		n := 1 + c.r.IntN(len(text))
		for n < len(text) && text[n]&0xc0 == 0x80 { // not within a character
			n++
		}
		c.event(`{"type":"content_block_delta","index":%d,"delta":{"type":"%s_delta",%q:%s}}`, i, b.kind, b.kind,
			quote(text[:n]))
		text = text[n:]
	}
	if b.kind == "thinking" && size == len(b.text) {
		c.event(`{"type":"content_block_delta","index":%d,"delta":{"type":"signature_delta","signature":"c2ln"}}`, i)
	}
}

// cut begins an answer that is cut within a block: the one that will be given, or another one, of which the blocks
// before that one are kept.
func (c *cli) cut(blocks []spoken) {
	if blocks = blocks[:1]; c.r.IntN(2) == 0 {
		blocks = c.blocks()
	}
	id, at := c.id("msg"), c.r.IntN(len(blocks))
	c.start(id)
	var late []string
	for i, b := range blocks[:at] {
		c.stream(id, i, b, &late)
		c.count(b)
	}
	half := blocks[at]
	size := c.r.IntN(len(half.text) + 1)
	for size < len(half.text) && half.text[size]&0xc0 == 0x80 {
		size++
	}
	c.begin(at, half.kind)
	c.deltas(at, half, size)
	c.event(`{"type":"content_block_stop","index":%d}`, at)
	abandoned := fmt.Sprintf(`,"abandoned_blocks":{"api_message_id":%q,"from_block_index":%d}`, id, at)
	if at == 0 && c.r.IntN(3) == 0 {
		abandoned = ""
	}
	c.line(`{"type":"stream_event","event":{"type":"message_stop"},"parent_tool_use_id":null%s}`, abandoned)
	for _, tool := range late {
		c.result(tool)
	}
	c.line(`{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10}`)
}

// repeat writes the line in which the CLI has a block that ends.
func (c *cli) repeat(id string, b spoken) {
	c.line(`{"type":"assistant","message":{"id":%q,"role":"assistant","model":"claude-haiku-5-5","content":[%s],`+
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
func (c *cli) whole(id string, blocks []spoken) {
	for _, b := range blocks {
		c.repeat(id, b)
		c.count(b)
	}
	c.input, c.output = c.input+11, c.output+1
	for _, b := range blocks {
		if b.kind == "tool_use" {
			c.result(b.text)
		}
	}
}

func (c *cli) count(b spoken) {
	switch b.kind {
	case "text":
		c.texts += b.text
	case "thinking":
		c.thoughts += b.text
	default:
		c.tools = append(c.tools, b.text)
	}
}

func (c *cli) result(tool string) {
	if c.r.IntN(20) == 0 {
		return // which is made up for
	}
	c.line(`{"type":"user","message":{"role":"user","content":[{"type":"tool_result","tool_use_id":%q,"is_error":%t,`+
		`"content":%s}]},`+
		`"parent_tool_use_id":null,"uuid":"u"}`, tool, c.r.IntN(2) == 0,
		[]string{`"said"`, `[{"type":"text","text":"said"},{"type":"image","source":{}}]`}[c.r.IntN(2)])
}

// randomTurn is a turn of one to four answers.
func randomTurn(seed uint64) *cli {
	c := &cli{r: newRandom(seed)}
	c.line(`{"type":"system","subtype":"init","session_id":"s","model":"claude-haiku-5-5"}`)
	stops := []string{"tool_use", "max_tokens", "refusal", "end_turn"}
	for range c.r.IntN(4) {
		c.answer(stops[c.r.IntN(3)])
		c.line(`{"type":"user","isSynthetic":true,"message":{"role":"user","content":"Resume directly"},` +
			`"parent_tool_use_id":null}`)
	}
	if c.r.IntN(6) > 0 {
		c.answer("end_turn")
		c.line(`{"type":"result","subtype":"success","is_error":false,"result":"the last","stop_reason":"end_turn"}`)
		return c
	}
	c.failure = true
	if c.r.IntN(2) == 0 {
		c.cut(c.blocks())
		c.lines = append(c.lines, `{"type":"error","error":{"type":"overloaded_error","message":"no"}}`)
		return c
	}
	c.line(`{"type":"assistant","error":"server_error","message":{"id":"e","content":[{"type":"text","text":"API ` +
		`Error"}]}}`)
	c.line(`{"type":"result","subtype":"success","is_error":true,"api_error_status":529,"result":"overloaded"}`)
	return c
}

func newRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }
