package messages

import (
	"bytes"
	"slices"

	"github.com/tidwall/gjson"
)

// Collector makes the whole message of a stream's events, without blocks that have become void. It is for one
// goroutine.
type Collector struct {
	most   int // bytes
	size   int
	head   []byte
	blocks []*block
	end    []byte
}

// block is one of the message, as it began, and what came to it. Its texts are kept as JSON has them between the
// quotes: parts that follow each other are one.
type block struct {
	start                     []byte
	text, thinking, signature []byte
	citations                 [][]byte
	input                     []byte
}

// NewCollector returns a Collector of at most so many bytes.
func NewCollector(most int) *Collector { return &Collector{most: most} }

// Take is an Emit.
func (c *Collector) Take(name string, data []byte) {
	if c.size += len(data); c.size > c.most {
		return
	}
	event := gjson.ParseBytes(data)
	switch name {
	case "message_start":
		c.head = []byte(event.Get("message").Raw)
	case "content_block_start":
		c.blocks = append(c.blocks, &block{start: []byte(event.Get("content_block").Raw)})
	case "content_block_delta":
		c.blocks[len(c.blocks)-1].add(event.Get("delta"))
	case "message_delta":
		c.end = bytes.Clone(data)
	}
}

func (b *block) add(delta gjson.Result) {
	switch delta.Get("type").Str {
	case "text_delta":
		b.text = appendInner(b.text, delta.Get("text"))
	case "thinking_delta":
		b.thinking = appendInner(b.thinking, delta.Get("thinking"))
	case "signature_delta":
		b.signature = appendInner(b.signature, delta.Get("signature"))
	case "input_json_delta":
		b.input = append(b.input, delta.Get("partial_json").Str...)
	case "citations_delta":
		b.citations = append(b.citations, []byte(delta.Get("citation").Raw))
	}
}

// appendInner appends what stands between a text's quotes.
func appendInner(to []byte, text gjson.Result) []byte {
	if text.Type != gjson.String {
		return to
	}
	return append(to, text.Raw[1:len(text.Raw)-1]...)
}

// Size is how many bytes it has taken.
func (c *Collector) Size() int { return c.size }

// Full reports whether there is more than the Collector takes: then it has no message.
func (c *Collector) Full() bool { return c.size > c.most }

// Message is the whole message, after its end. The Collector keeps nothing of it.
func (c *Collector) Message() []byte {
	end := gjson.ParseBytes(c.end)
	var void []int64
	for _, index := range end.Get("claudepool_void").Array() {
		void = append(void, index.Int())
	}
	content := append(make([]byte, 0, c.size), '[')
	for i, b := range c.blocks {
		c.blocks[i] = nil
		if slices.Contains(void, int64(i)) {
			continue
		}
		if len(content) > 1 {
			content = append(content, ',')
		}
		content = b.append(content)
	}
	c.blocks = nil
	to := make([]byte, 0, len(content)+len(c.head)+len(c.end))
	return replaced(to, c.head, map[string][]byte{"content": append(content, ']'), "usage": []byte(end.Get("usage").Raw),
		"stop_reason": []byte(end.Get("delta.stop_reason").Raw), "stop_sequence": []byte(end.Get("delta.stop_sequence").Raw),
		"stop_details": []byte(end.Get("delta.stop_details").Raw)})
}

// append appends the block with what has come to it.
func (b *block) append(to []byte) []byte {
	with := make(map[string][]byte)
	for name, text := range map[string][]byte{"text": b.text, "thinking": b.thinking, "signature": b.signature} {
		if text != nil {
			with[name] = append(append([]byte{'"'}, text...), '"')
		}
	}
	if b.citations != nil {
		with["citations"] = append(append([]byte{'['}, bytes.Join(b.citations, []byte{','})...), ']')
	}
	if b.input != nil {
		with["input"] = b.input
	}
	return replaced(to, b.start, with)
}

// replaced appends an object in which some values are others. Those that it doesn't have stand at its end.
func replaced(to, object []byte, with map[string][]byte) []byte {
	begin := len(to)
	to = append(to, '{')
	add := func(name string, value []byte) {
		if len(to) > begin+1 {
			to = append(to, ',')
		}
		to = append(append(append(to, '"'), name...), `":`...)
		to = append(to, value...)
	}
	gjson.ParseBytes(object).ForEach(func(key, value gjson.Result) bool {
		if other, there := with[key.Str]; there {
			add(key.Str, other)
			delete(with, key.Str)
			return true
		}
		add(key.Str, []byte(value.Raw))
		return true
	})
	for _, name := range []string{"text", "thinking", "signature", "citations", "input"} {
		if value, left := with[name]; left {
			add(name, value)
		}
	}
	return append(to, '}')
}
