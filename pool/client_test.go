package pool_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// ways are the ways in which clients keep what was said. Those that keep nothing say which conversation they mean
// instead.
var ways = []string{"formed", "joined", "last message", "last text", "deltas", "empty ones too", "session", "default"}

// client is a user who has one conversation, and keeps it in one of the ways.
type client struct {
	*service
	user, way string
	session   string   // as the last answer named it
	kept      []fields // messages
}

// request is what the client sends to ask something.
func (c *client) request(content any) fields {
	question := user(content)
	switch {
	case c.way == "default":
		return fields{"messages": []fields{question}}
	case c.way == "session":
		return fields{"messages": []fields{question}, "session_id": c.session}
	}
	return fields{"messages": append(c.kept[:len(c.kept):len(c.kept)], question)}
}

// ask asks, and keeps question and answer if there was a good one.
func (c *client) ask(content any, more fields) reply {
	c.t.Helper()
	body := c.request(content)
	maps.Copy(body, more)
	r := c.service.ask(c.user, "", body)
	if c.way == "session" {
		for _, id := range ids(r) {
			require.Equal(c.t, c.session, id, "the client has chosen it")
		}
	}
	if isGood(r) {
		c.session = sessionOf(r)
		c.kept = append(append(c.kept, user(content)), answerOf(r, c.way)...)
	}
	return r
}

// abandon asks, and hangs up once the turn has begun as far as that.
func (c *client) abandon(content any, begun func() bool) {
	c.t.Helper()
	ctx, hangUp := context.WithCancel(c.t.Context())
	defer hangUp()
	response, err := c.start(ctx, c.user, "", c.request(content))
	require.NoError(c.t, err)
	require.Eventually(c.t, begun, time.Minute, time.Millisecond)
	hangUp()
	_ = response.Body.Close()
}

func isGood(r reply) bool {
	results := r.of("result")
	return r.status == http.StatusOK && len(results) == 1 && !results[0].Get("is_error").Bool() &&
		results[0].Get("subtype").Str == "success"
}

// answerOf are the messages that a client keeps of an answer.
func answerOf(r reply, way string) (kept []fields) {
	var messages []fields // as the API formed them, with what the tools said
	var texts, last []string
	deltas, id := "", ""
	for _, e := range r.events {
		if e.Get("parent_tool_use_id").Type == gjson.String {
			continue // a subagent's
		}
		deltas += e.Get("event.delta.text").Str
		blocks := e.Get("message.content").Array()
		switch {
		case e.Get("type").Str == "assistant" && e.Get("message.id").Str != id:
			id, last = e.Get("message.id").Str, nil
			messages = append(messages, assistant([]any{}))
		case e.Get("type").Str == "user" && e.Get("message.content.0.type").Str == "tool_result":
			messages, id = append(messages, user(e.Get("message.content").Value())), ""
			continue
		case e.Get("type").Str != "assistant":
			continue
		}
		m := messages[len(messages)-1]
		for _, b := range blocks {
			m["content"] = append(m["content"].([]any), b.Value())
			if text := b.Get("text").Str; b.Get("type").Str == "text" {
				texts, last = append(texts, text), append(last, text)
			}
		}
	}
	said := map[string]string{"joined": strings.Join(texts, ""), "empty ones too": strings.Join(texts, ""),
		"last message": strings.Join(last, ""), "deltas": deltas}
	if len(texts) > 0 {
		said["last text"] = texts[len(texts)-1]
	}
	switch text := said[way]; {
	case way == "formed":
		return messages
	case text == "" && way != "empty ones too":
		return nil
	default:
		return []fields{assistant(text)}
	}
}

// blocks tells the stand-in which blocks to answer with.
func blocks(list ...fields) string {
	var raw []string
	for _, block := range list {
		b, _ := json.Marshal(block)
		raw = append(raw, string(b))
	}
	return "[[blocks=" + strings.Join(raw, ",") + "]]"
}

func thinking(about string) fields { return fields{"type": "thinking", "thinking": about} }
func running(command string) fields {
	return fields{"type": "tool_use", "name": "Bash", "input": fields{"command": command}}
}
