package pooltest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/pooltest/directive"
)

// answer answers one call as the text it is made for says.
func (a *API) answer(ctx context.Context, w http.ResponseWriter, req request, bill func(Took)) {
	r := a.replyTo(req)
	r.bill = bill
	rest(ctx, r.wants.Duration("latency"))
	switch {
	case r.wants.Has("status"):
		if r.wants.Has("retry") {
			w.Header().Set(shouldRetry, "true")
		}
		fail(w, r.wants.Number("status"))
	case req.Stream:
		w.Header().Set("Content-Type", "text/event-stream")
		if flush := http.NewResponseController(w).Flush; r.blocks != nil && !r.wants.Has("silence") {
			streamBlocks(w, flush, req.Model, *r.blocks, r.wants.Has("cut"))
			bill(Took{Input: 10, Output: 5})
			return
		}
		r.stream(&sse{ctx: ctx, w: w, flush: http.NewResponseController(w).Flush})
	case r.wants.Has("garbage"):
		_, _ = w.Write([]byte("<html>not an answer</html>"))
	default:
		r.send(w)
	}
}

// reply is what a call is answered with.
type reply struct {
	model  string
	wants  directive.Set
	text   []string // the pieces it is streamed in
	blocks *string  // content blocks in place of all that, in JSON
	tools  []string // each a name and the JSON of its input
	stop   string
	bill   func(Took) // gets what the call has taken so far
}

func (a *API) replyTo(req request) reply {
	r := reply{model: req.Model, wants: directive.Set{}, stop: "end_turn"}
	if req.wantsSummary() {
		last, summary := req.summary()
		r.wants["latency"] = directive.Parse(last)["compacting"]
		r.text = []string{"<analysis>all of it</analysis>\n", "<summary>" + summary + "</summary>"}
		return r
	}
	text, results := req.asked()
	wanted, n := directive.Parse(text), a.count(text)
	r.wants = wanted.Call(n)
	_, again := wanted[strconv.Itoa(n)+":tool"]
	switch {
	case r.wants.Has("blocks") && results == nil:
		blocks := r.wants["blocks"]
		r.blocks = &blocks
	case r.wants.Has("empty"):
	case r.wants.Has("tool") && (results == nil || again):
		r.tools, r.stop = strings.Split(r.wants["tool"], "\n"), "tool_use"
		if r.wants.Has("say") {
			r.text = []string{r.wants["say"]}
		}
	case results != nil:
		r.text = []string{"tool said: " + strings.Join(results, "\n")}
	default:
		r.text = chunks(a.words(text), r.wants)
	}
	if r.wants.Has("stop") {
		r.stop = r.wants["stop"]
	}
	return r
}

// count counts the calls that are made for a text.
func (a *API) count(text string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[text]++
	return a.asked[text]
}

// chunks are the pieces an answer is streamed in.
func chunks(text string, d directive.Set) []string {
	switch {
	case d.Has("bytes"):
		return []string{strings.Repeat("x", d.Number("bytes"))}
	case d.Has("words"):
		words := make([]string, d.Number("words"))
		for i := range words {
			words[i] = "w" + strconv.Itoa(i) + " "
		}
		return words
	}
	return strings.SplitAfter(text, " ")
}

// message is the JSON of the reply's message with some content.
func (r reply) message(content, stop string, took Took) string {
	r.bill(took)
	return fmt.Sprintf(`{"id":"msg_%s","type":"message","role":"assistant","model":%q,"content":[%s],"stop_reason":%s,`+
		`"stop_sequence":null,"usage":%s}`, uuid.NewString(), r.model, content, stop, took.json())
}

// toolUse is the JSON of a block that calls a tool.
func toolUse(name, input string) string {
	id := strings.ReplaceAll(uuid.NewString(), "-", "")[:24]
	return fmt.Sprintf(`{"type":"tool_use","id":"toolu_%s","name":%q,"input":%s}`, id, name, input)
}

// send answers a call that isn't to be streamed.
func (r reply) send(w http.ResponseWriter) {
	var content []string
	if len(r.text) > 0 {
		content = append(content, `{"type":"text","text":`+quoted(strings.Join(r.text, ""))+"}")
	}
	for _, call := range r.tools {
		name, input, _ := strings.Cut(call, " ")
		content = append(content, toolUse(name, input))
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, r.message(strings.Join(content, ","), quoted(r.stop), tookOf(r.wants)))
}

func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

// stream answers a call with events.
func (r reply) stream(s *sse) {
	took := tookOf(r.wants)
	s.event("message_start", `,"message":%s`, r.message("", "null", took.begun()))
	switch {
	case r.wants.Has("garbage"):
		_, _ = io.WriteString(s.w, "event: message_delta\ndata: {not json\n\n")
		return
	case r.wants.Has("silence"):
		<-s.ctx.Done()
		return
	case !r.say(s):
		return
	}
	for _, call := range r.tools {
		name, input, _ := strings.Cut(call, " ")
		s.begin(toolUse(name, "{}"))
		s.delta(`"type":"input_json_delta","partial_json":%s`, quoted(input))
		s.end()
	}
	if s.ctx.Err() != nil {
		return // whoever has gone gets no more, and pays for no more
	}
	r.bill(took)
	s.event("message_delta", `,"delta":{"stop_reason":%q,"stop_sequence":null},"usage":{"output_tokens":%d}`, r.stop,
		took.Output)
	s.event("message_stop", "")
}

// say streams the text, and reports whether it came to its end.
func (r reply) say(s *sse) bool {
	if len(r.text) == 0 {
		return true
	}
	s.begin(`{"type":"text","text":""}`)
	for i, word := range r.text {
		rest(s.ctx, r.wants.Duration("delay"))
		if s.ctx.Err() != nil {
			return false
		}
		s.delta(`"type":"text_delta","text":%s`, quoted(word+strings.Repeat(" ", max(0, r.wants.Number("size")-len(word)))))
		if i != (len(r.text)-1)/2 {
			continue
		}
		rest(s.ctx, r.wants.Duration("pause"))
		if r.wants.Has("cut") {
			panic(http.ErrAbortHandler)
		}
		if r.wants.Has("error") {
			s.event("error", `,"error":{"type":%q,"message":"the stand-in was asked for this"}`, r.wants["error"])
			return false
		}
	}
	s.end()
	return true
}

// sse writes the API's events.
type sse struct {
	ctx   context.Context
	w     io.Writer
	flush func() error
	index int // of the block that is being written
}

func (s *sse) event(kind, format string, args ...any) {
	fmt.Fprintf(s.w, "event: %s\ndata: {\"type\":%q%s}\n\n", kind, kind, fmt.Sprintf(format, args...))
	_ = s.flush()
}

func (s *sse) begin(block string) {
	s.event("content_block_start", `,"index":%d,"content_block":%s`, s.index, block)
}

func (s *sse) delta(format string, args ...any) {
	s.event("content_block_delta", `,"index":%d,"delta":{%s}`, s.index, fmt.Sprintf(format, args...))
}

func (s *sse) end() {
	s.event("content_block_stop", `,"index":%d`, s.index)
	s.index++
}

func rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
