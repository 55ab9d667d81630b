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

// newMeter returns the meter of an answer that is a stream or isn't.
func newMeter(isStream bool) meter {
	return meter{isStream: isStream, whole: picker{names: []string{memberModel, memberUsage}}}
}

// meter finds in an answer, which comes in parts, what the call took. It keeps nothing but that.
type meter struct {
	isStream bool
	whole    picker // of an answer that isn't streamed

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
		m.take(m.whole.get(memberModel), m.whole.get(memberUsage))
	}
	if !m.hasTold {
		return nil
	}
	return &m.took
}

func (m *meter) look(part []byte) {
	if !m.isStream {
		m.whole.look(part)
		m.isOver = m.whole.isOver
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
		m.take(event.Get(memberModel), event.Get(memberUsage))
	}
}

// take takes what a message, or the end of one, says. What comes later holds: numbers are of the whole message.
func (m *meter) take(model, used gjson.Result) {
	if model.Str != "" {
		m.took.Model = model.Str
	}
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
