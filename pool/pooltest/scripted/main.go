// Command scripted is a stand-in for the Claude Code CLI: it speaks the same protocol on its pipes, keeps a transcript
// that can be resumed, and calls the API as the real one does. Beyond that it shows, on demand, what the real one can't
// be made to show. What it does is up to directives in the user's text:
//
//	[[events=1000]]   answer with that many events, without calling the API
//	[[delay=10ms]]    with events: wait before each
//	[[size=1000]]     with events: bytes of text in each
//	[[framed]]        with events: what the API writes around them, too
//	[[exit]]          end in the middle of the turn
//	[[hang]]          say nothing more, whatever comes
//	[[flood]]         write events without end until interrupted
//	[[never]]         go on for ever, a word now and then, deaf to interrupts
//	[[noise]]         write what isn't JSON between the lines
//	[[ask]]           ask the host for permission and wait for its answer
//	[[late]]          after the turn, write the result of another one
//	[[run=command]]   run it with a shell and answer with what it says
//	[[leave]]         end a moment after the turn, without being asked
//	[[random=1]]      answer with a random turn, which that number chooses, without calling the API
//	[[task=300ms]]    begin what takes so long; in the background, where that is offered
//
// Everything else in the text is for the API. Tools that the API calls do nothing and say "done".
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"claudepool/pool/claude"
)

func main() {
	if err := realMain(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func realMain() error {
	uuid.EnableRandPool() // or every event would cost a system call
	flags := flag.NewFlagSet("scripted", flag.ContinueOnError)
	sessionID := flags.String("session-id", "", "")
	resume := flags.String("resume", "", "")
	resumeAt := flags.String("resume-session-at", "", "")
	model := flags.String("model", "default", "")
	for _, name := range []string{"print", "verbose", "include-partial-messages", "allow-dangerously-skip-permissions"} {
		flags.Bool(name, false, "")
	}
	for _, name := range []string{"input-format", "output-format", "system-prompt-snapshot", "fallback-model",
		"permission-mode", "permission-prompt-tool", "disallowedTools", "settings"} {
		flags.String(name, "", "")
	}
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	s, err := openSession(*sessionID, *resume, *resumeAt)
	if err != nil {
		return err
	}
	c := &cli{out: bufio.NewWriterSize(os.Stdout, 64<<10), session: s, model: *model, answers: make(chan struct{}, 1)}
	return c.run(os.Stdin)
}

// cli is the running stand-in.
type cli struct {
	session *session
	answers chan struct{} // the host has answered a control request

	write sync.Mutex // guards out
	out   *bufio.Writer

	mu        sync.Mutex // guards the following
	model     string
	system    string
	begun     bool   // too late for a system prompt
	interrupt func() // ends the running turn; nil while there is none
	running   bool
}

// run takes the host's lines until there are no more.
func (c *cli) run(stdin io.Reader) error {
	turns := make(chan gjson.Result, 1024)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for message := range turns {
			c.turn(message)
		}
	}()
	lines := claude.NewReader(stdin)
	for {
		raw, err := lines.Next()
		if errors.Is(err, io.EOF) {
			close(turns)
			<-ended
			return nil
		}
		if err != nil {
			return err
		}
		line := gjson.ParseBytes(raw)
		switch line.Get("type").Str {
		case "user":
			c.lifecycle(line, "queued")
			turns <- line
		case "control_request":
			c.control(line)
		case "control_response":
			select {
			case c.answers <- struct{}{}:
			default:
			}
		}
	}
}

// control answers a control request of the host.
func (c *cli) control(line gjson.Result) {
	id, request := line.Get("request_id").Str, line.Get("request")
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := any(struct{}{})
	switch request.Get("subtype").Str {
	case "interrupt":
		if c.interrupt != nil {
			c.interrupt()
		}
	case "set_model":
		c.model = request.Get("model").Str
	case "rewind_conversation":
		answer = c.rewindLocked(request.Get("target_message_uuid").Str)
	case "side_question":
		go c.side(id, request.Get("question").Str)
		return
	case "initialize":
		if !c.begun {
			c.system, c.begun = request.Get("appendSystemPrompt").Str, true
		}
	case "set_permission_mode", "set_max_thinking_tokens", "mcp_set_servers":
	default:
		c.say(object{"type": "control_response", "response": object{"subtype": "error", "request_id": id,
			"error": "unknown request"}})
		return
	}
	c.say(object{"type": "control_response", "response": object{"subtype": "success", "request_id": id,
		"response": answer}})
}

// side answers a side question, which is no part of the conversation.
func (c *cli) side(id, question string) {
	content, _ := json.Marshal(question)
	answer, err := c.ask(context.Background(), append(c.session.conversation(), message{"user", content}),
		func(json.RawMessage) {})
	if err != nil {
		c.say(object{"type": "control_response", "response": object{"subtype": "error", "request_id": id,
			"error": err.Error()}})
		return
	}
	c.say(object{"type": "control_response", "response": object{"subtype": "success", "request_id": id,
		"response": object{"response": answer.text()}}})
}

func (c *cli) rewindLocked(uuid string) object {
	switch {
	case c.running:
		return object{"rewound": false, "reason": "turn_running"}
	case !c.session.rewind(uuid):
		return object{"rewound": false, "reason": "target_not_found"}
	}
	return object{"rewound": true}
}

type object map[string]any

// say writes lines to the host, all of them at once.
func (c *cli) say(lines ...any) {
	c.write.Lock()
	defer c.write.Unlock()
	for _, line := range lines {
		b, err := json.Marshal(line)
		if err != nil {
			panic(err)
		}
		_, _ = c.out.Write(append(b, '\n'))
	}
	_ = c.out.Flush()
}

func (c *cli) lifecycle(message gjson.Result, state string) {
	c.say(object{"type": "command_lifecycle", "command_uuid": message.Get("uuid").Str, "state": state,
		"session_id": c.session.id})
}
