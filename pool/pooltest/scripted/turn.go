package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"claudepool/pool/pooltest/directive"
)

// turn runs one user message to its result.
func (c *cli) turn(message gjson.Result) {
	if textOf(message.Get("message.content")) == "/clear" && !message.Get("text_not_typed").Bool() {
		c.startOver(message)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.sayState("running")
	c.lifecycle(message, "started")
	c.mu.Lock()
	c.running, c.begun, c.interrupt = true, true, cancel
	model := c.model
	c.mu.Unlock()
	t := &turn{cli: c, ctx: ctx, model: model, uuid: message.Get("uuid").Str, content: message.Get("message.content"),
		wants: directive.Parse(textOf(message.Get("message.content")))}
	c.session.add("user", t.uuid, []byte(t.content.Raw))
	c.say(object{"type": "system", "subtype": "init", "session_id": c.session.id, "model": model,
		"uuid": uuid.NewString()})
	var left *task
	if t.wants.Has("task") {
		left = c.beginTask(t.wants.Duration("task"))
	}
	conclude := t.random
	if !t.wants.Has("random") {
		answer, err := t.run()
		conclude = func() { t.conclude(answer, err) }
	}
	c.mu.Lock()
	c.running, c.interrupt = false, nil
	c.mu.Unlock()
	conclude()
	c.lifecycle(message, "completed")
	c.sayState("idle")
	if left != nil {
		c.tell(left, model)
	}
	if t.wants.Has("leave") {
		time.Sleep(50 * time.Millisecond)
		os.Exit(1)
	}
}

// startOver takes the command for another session.
func (c *cli) startOver(message gjson.Result) {
	c.lifecycle(message, "started")
	c.session.startOver(message.Get("uuid").Str)
	c.say(object{"type": "result", "subtype": "success", "is_error": false, "result": "", "num_turns": 0,
		"session_id": c.session.id, "uuid": uuid.NewString(), "user_message_uuid": message.Get("uuid").Str})
	c.lifecycle(message, "completed")
}

// turn is the user message that is being answered.
type turn struct {
	cli     *cli
	ctx     context.Context
	model   string
	uuid    string
	content gjson.Result
	wants   directive.Set
	answer  string // id of the message that was streamed last
}

// run makes the answer, with the faults that the text asks for.
func (t *turn) run() (answer, error) {
	switch {
	case t.wants.Has("exit"):
		t.delta("half a ")
		os.Exit(1)
	case t.wants.Has("hang"):
		t.cli.write.Lock()
		for {
			time.Sleep(time.Hour)
		}
	case t.wants.Has("never"):
		for {
			t.delta("word ")
			time.Sleep(20 * time.Millisecond)
		}
	case t.wants.Has("flood"):
		for t.ctx.Err() == nil {
			t.delta(strings.Repeat("x", 1000))
		}
		return nil, t.ctx.Err()
	case t.wants.Has("noise"):
		t.cli.write.Lock()
		_, _ = t.cli.out.WriteString("not JSON\n\xff\xfe\x00\n[1,2]\n{\"half\": \n\n")
		t.cli.write.Unlock()
	case t.wants.Has("run"):
		t.cli.say(object{"type": "assistant", "uuid": uuid.NewString(), "session_id": t.cli.session.id,
			"message": object{"role": "assistant", "content": []object{{"type": "tool_use", "name": "Bash"}}}})
		out, err := exec.CommandContext(t.ctx, "/bin/sh", "-c", t.wants["run"]).CombinedOutput()
		t.delta(string(out))
		return answer{{"type": "text", "text": string(out)}}, err
	case t.wants.Has("ask"):
		t.cli.say(object{"type": "control_request", "request_id": "ask-" + t.uuid,
			"request": object{"subtype": "can_use_tool", "tool_name": "Bash"}})
		<-t.cli.answers
	}
	if t.wants.Has("events") {
		return t.events()
	}
	for {
		a, err := t.cli.ask(t.ctx, t.cli.session.conversation(), t.pass)
		results := a.results()
		if err != nil || results == nil {
			return a, err
		}
		t.say("assistant", a)
		t.say("user", results)
	}
}

// pass writes an event of the API.
func (t *turn) pass(event json.RawMessage) {
	if id := gjson.GetBytes(event, "message.id").Str; id != "" {
		t.answer = id
	}
	t.event(event)
}

// say writes a message to the host and adds it to the session.
func (t *turn) say(role string, content any) {
	id := uuid.NewString()
	raw, _ := json.Marshal(content)
	t.cli.session.add(role, id, raw)
	message := object{"id": "msg_" + id, "role": role, "model": t.model, "content": json.RawMessage(raw)}
	if role == "assistant" && t.answer != "" {
		message["id"] = t.answer
	}
	t.cli.say(object{"type": role, "uuid": id, "session_id": t.cli.session.id, "message": message})
}

// events answers without the API.
func (t *turn) events() (answer, error) {
	var all strings.Builder
	if t.wants.Has("framed") {
		t.open()
		defer t.close()
	}
	for i := range t.wants.Number("events") {
		if d := t.wants.Duration("delay"); d > 0 {
			time.Sleep(d)
		}
		if t.ctx.Err() != nil {
			return nil, t.ctx.Err()
		}
		word := fmt.Sprintf("%-*s", t.wants.Number("size"), fmt.Sprintf("w%d ", i))
		all.WriteString(word)
		t.delta(word)
	}
	return answer{{"type": "text", "text": all.String()}}, nil
}

// open writes what the API writes before a text, and close what it writes behind.
func (t *turn) open() {
	t.answer = "msg_" + uuid.NewString()
	t.event(object{"type": "message_start", "message": object{"id": t.answer, "type": "message", "role": "assistant",
		"model":   t.model,
		"content": []object{}, "usage": object{"input_tokens": 10, "output_tokens": 1}}})
	t.event(object{"type": "content_block_start", "index": 0, "content_block": object{"type": "text", "text": ""}})
}

func (t *turn) close() {
	t.event(object{"type": "content_block_stop", "index": 0})
	t.event(object{"type": "message_delta", "delta": object{"stop_reason": "end_turn"},
		"usage": object{"output_tokens": 5}})
	t.event(object{"type": "message_stop"})
}

// What is written for each word is of structs, as maps are slow to write.
type (
	streamEvent struct {
		Type      string `json:"type"`
		Event     any    `json:"event"`
		SessionID string `json:"session_id"`
		UUID      string `json:"uuid"`
	}
	contentDelta struct {
		Type  string    `json:"type"`
		Index int       `json:"index"`
		Delta textDelta `json:"delta"`
	}
	textDelta struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
)

func (t *turn) delta(text string) {
	t.event(contentDelta{"content_block_delta", 0, textDelta{"text_delta", text}})
}

func (t *turn) event(event any) {
	t.cli.say(streamEvent{"stream_event", event, t.cli.session.id, uuid.NewString()})
}

// conclude writes the turn's last lines.
func (t *turn) conclude(a answer, err error) {
	result := object{"type": "result", "subtype": "success", "is_error": false, "result": a.text(),
		"session_id": t.cli.session.id,
		"uuid":       uuid.NewString(), "user_message_uuid": t.uuid}
	switch {
	case t.ctx.Err() != nil:
		result["subtype"], result["is_error"] = "error_during_execution", true
		delete(result, "result")
		t.cli.say(result)
	case err != nil:
		result["is_error"], result["result"] = true, err.Error()
		t.cli.say(result)
	default:
		if len(a) > 0 {
			t.say("assistant", a)
		}
		t.cli.session.save()
		t.cli.say(result)
	}
	if t.wants.Has("late") {
		stray := object{"type": "assistant", "uuid": uuid.NewString(), "message": object{"role": "assistant",
			"content": []object{{"type": "text", "text": "stray"}}}}
		t.cli.say(stray, object{"type": "result", "subtype": "success", "result": "stray",
			"user_message_uuid": uuid.NewString()})
	}
}

func textOf(content gjson.Result) string {
	if content.Type == gjson.String {
		return content.Str
	}
	var b strings.Builder
	for _, block := range content.Array() {
		b.WriteString(block.Get("text").Str)
	}
	return b.String()
}
