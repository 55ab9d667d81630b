package broker

import (
	"bytes"

	"github.com/tidwall/gjson"
)

const (
	// maxUsageLine is how long an event may be that says what a call took, in bytes. They have some hundred.
	maxUsageLine = 64 << 10
	// maxTokens bounds what one call may be said to have taken of a kind, so that no sum overflows.
	maxTokens = 1 << 32
)

// The events of a stream that say what a call took have these names.
var (
	eventMessage = []byte("event: message_")
	eventStop    = "event: message_stop"
	dataField    = []byte("data:")
)

// meter finds in an answer, which comes in parts, what the call took. It keeps nothing but that.
type meter struct {
	isStream bool
	picker   picker // of an answer that isn't streamed

	line    []byte // what has come of a line that goes on in the next part, as far as it may count
	skips   bool   // the rest of the line doesn't count
	isNext  bool   // the next line with data does
	took    Usage
	hasTold bool
	isOver  bool // no more will be said
}

// usage is what the call took, as far as it has been said.
func (m *meter) usage() *Usage {
	if !m.isStream {
		m.take(gjson.Parse("{" + string(m.picker.picked) + "}"))
	}
	if !m.hasTold {
		return nil
	}
	return &m.took
}

func (m *meter) look(part []byte) {
	if !m.isStream {
		m.picker.look(part)
		m.isOver = m.picker.isOver
		return
	}
	for len(part) > 0 {
		end := bytes.IndexByte(part, '\n')
		if end < 0 {
			m.keep(part)
			return
		}
		line := part[:end]
		if len(m.line) > 0 {
			m.keep(line)
			line = m.line
		}
		if !m.skips {
			m.event(line)
		}
		m.line, m.skips = m.line[:0], false
		part = part[end+1:]
	}
}

// keep keeps a part of a line whose end hasn't come.
func (m *meter) keep(part []byte) {
	isData := len(m.line)+len(part) > len(eventMessage) && !m.isNext
	if m.skips || isData && !bytes.HasPrefix(append(m.line, part[:min(len(part), len(eventMessage))]...), eventMessage) ||
		len(m.line)+len(part) > maxUsageLine {
		m.line, m.skips = m.line[:0], true
		return
	}
	m.line = append(m.line, part...)
}

// event takes a line of a stream.
func (m *meter) event(line []byte) {
	switch data, isData := bytes.CutPrefix(line, dataField); {
	case bytes.HasPrefix(line, eventMessage):
		m.isNext = true
		m.isOver = m.isOver || string(line) == eventStop
	case isData && m.isNext:
		m.isNext = false
		event := gjson.ParseBytes(data)
		if message := event.Get("message"); message.Exists() {
			event = message
		}
		m.take(event)
	}
}

// take takes what a message, or the end of one, says. What comes later holds: numbers are of the whole message.
func (m *meter) take(message gjson.Result) {
	if model := message.Get("model").Str; model != "" {
		m.took.Model = model
	}
	used := message.Get("usage")
	if !used.IsObject() {
		return
	}
	m.hasTold = true
	t := &m.took
	used.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "input_tokens":
			set(&t.Input, value)
		case "output_tokens":
			set(&t.Output, value)
		case "cache_read_input_tokens":
			set(&t.CacheRead, value)
		case "speed":
			t.Fast = value.Str == "fast"
		}
		return true
	})
	set(&t.WebSearches, used.Get("server_tool_use.web_search_requests"))
	// Which writes are kept for how long is said beside their number, but not at a message's end. Where it never is, they
	// are those of five minutes.
	if written := used.Get("cache_creation_input_tokens"); written.Type == gjson.Number {
		set(&t.CacheWrite1h, used.Get("cache_creation.ephemeral_1h_input_tokens"))
		set(&t.CacheWrite5m, written)
		t.CacheWrite1h = min(t.CacheWrite1h, t.CacheWrite5m)
		t.CacheWrite5m -= t.CacheWrite1h
	}
}

func set(n *int64, value gjson.Result) {
	if value.Type == gjson.Number {
		*n = min(max(value.Int(), 0), maxTokens)
	}
}

// picker picks the model and the usage from the outermost object of a JSON text that comes in parts. What an argument
// of a tool is called that is deeper.
type picker struct {
	depth    int
	inString bool
	escaped  bool
	isKey    bool   // the string that is being read is a key of the outermost object
	key      []byte // that key, or the last one
	isOver   bool   // the object has come to its end
	picking  bool
	picked   []byte // members of an object
}

func (p *picker) look(part []byte) {
	for _, c := range part {
		p.next(c)
		if p.picking && len(p.picked) < maxUsageLine {
			p.picked = append(p.picked, c)
		}
	}
}

func (p *picker) next(c byte) {
	if p.inString {
		p.spell(c)
		return
	}
	switch c {
	case '"':
		p.inString, p.isKey = true, p.depth == 1 && len(p.key) == 0
	case '{', '[':
		p.depth++
	case '}', ']':
		if p.depth--; p.depth == 0 {
			p.picking, p.isOver = false, true
		}
	case ',':
		if p.depth == 1 {
			p.picking, p.key = false, p.key[:0]
		}
	case ':':
		if name := string(p.key); p.depth == 1 && !p.picking && (name == "model" || name == "usage") {
			p.picking = true
			if len(p.picked) > 0 {
				p.picked = append(p.picked, ',')
			}
			p.picked = append(append(append(p.picked, '"'), name...), '"')
		}
	}
}

// spell takes a character of a string.
func (p *picker) spell(c byte) {
	switch {
	case p.escaped:
		p.escaped = false
	case c == '\\':
		p.escaped = true
	case c == '"':
		p.inString = false
		return
	}
	if p.isKey && len(p.key) < 16 {
		p.key = append(p.key, c)
	}
}
