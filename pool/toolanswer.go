package pool

import (
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// answer is how far the API's present answer in a turn's main conversation has come.
type answer struct {
	streaming    bool
	own, clients map[string]bool // calls without a result by their ids: of the CLI's own tools, and of the client's
	noted        map[string]bool // all calls of the turn that have been told, subagents' too
	last         time.Time       // when a line has come
}

// note considers a line.
func (a *answer) note(raw []byte) {
	a.last = time.Now()
	line := gjson.ParseBytes(raw)
	if line.Get("type").Str == "assistant" {
		a.each(line, "tool_use", "id", func(id string, _ gjson.Result) { a.noted[id] = true })
	}
	if line.Get("parent_tool_use_id").Type == gjson.String {
		return // a subagent's
	}
	switch line.Get("type").Str {
	case "stream_event":
		switch line.Get("event.type").Str {
		case "message_start":
			a.streaming, a.own, a.clients = true, make(map[string]bool), make(map[string]bool)
		case "message_stop":
			a.streaming = false
		}
	case "assistant":
		a.each(line, "tool_use", "id", func(id string, block gjson.Result) {
			if strings.HasPrefix(block.Get("name").Str, api.ToolPrefix) {
				a.clients[id] = true
			} else {
				a.own[id] = true
			}
		})
	case "user":
		a.each(line, "tool_result", "tool_use_id", func(id string, _ gjson.Result) {
			delete(a.own, id)
			delete(a.clients, id)
		})
	}
}

// knows reports whether all of these calls have been told.
func (a *answer) knows(calls []*clientCall) bool {
	for _, c := range calls {
		if !a.noted[c.ID] {
			return false
		}
	}
	return true
}

// each calls do for each block of a kind in a line's message.
func (a *answer) each(line gjson.Result, kind, id string, do func(id string, block gjson.Result)) {
	if a.own == nil { // an answer may come without having been streamed
		a.own, a.clients = make(map[string]bool), make(map[string]bool)
	}
	if a.noted == nil {
		a.noted = make(map[string]bool)
	}
	line.Get("message.content").ForEach(func(_, block gjson.Result) bool {
		if block.Get("type").Str == kind {
			do(strings.Clone(block.Get(id).Str), block)
		}
		return true
	})
}
