// Package pooltest has the stand-ins for what can't be had in a test or offline: the Messages API, and a CLI that shows
// faults the real one can't be made to show. The real CLI can't tell the API stand-in from the real API.
package pooltest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/pooltest/directive"
)

// API is a stand-in for the Messages API on a loopback port. What it answers is up to the text of the last user message:
// a plain text is answered with "reply to: " and the text; `[[name=value]]` directives ask for something else.
//
//	[[status=529]]         an error of that status, not to be retried
//	[[latency=500ms]]      wait before the first byte
//	[[words=20]]           that many words, one event each
//	[[delay=50ms]]         wait before each word
//	[[bytes=4194304]]      one event with a text of that size
//	[[tool=Bash {…}]]      call a tool; its result is then answered with "tool said: "
//	[[size=65536]]         pad each word to that many bytes
//	[[cut]]                cut the connection in the middle
//	[[cut=2]]              the same, but only the first two times
//	[[garbage]]            answer with something that is no event stream
//	[[silence]]            begin to answer and then say nothing more
type API struct {
	server *http.Server
	url    string
	served chan struct{}
	words  func(text string) string

	mu     sync.Mutex // guards the following
	calls  []*Call
	counts []Call                      // those of count_tokens
	judge  func(credential string) int // nil: all are good
	open   int
	cuts   map[string]int // by text: how often an answer to it could have been cut
}

// Call is one request the API has seen.
type Call struct {
	At      time.Time
	Header  http.Header
	Body    []byte
	Model   string
	Aborted bool // the caller went before the answer's end
}

// Messages are the roles and texts of the call's messages without what the CLI adds of its own, as "role: text".
func (c Call) Messages() []string {
	var body request
	_ = json.Unmarshal(c.Body, &body)
	var all []string
	for _, m := range body.Messages {
		if text := m.text(); m.Role != "system" && text != "" {
			all = append(all, m.Role+": "+text)
		}
	}
	return all
}

// NewAPI returns a serving API. words makes the answer to a plain text; nil is "reply to: " and the text.
func NewAPI(words func(text string) string) (*API, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if words == nil {
		words = func(text string) string { return "reply to: " + text }
	}
	a := &API{url: "http://" + listener.Addr().String(), served: make(chan struct{}), words: words, cuts: make(map[string]int)}
	a.server = &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(a.served)
		_ = a.server.Serve(listener)
	}()
	return a, nil
}

// URL is the API's base URL.
func (a *API) URL() string { return a.url }

// Close ends the API and every open call.
func (a *API) Close() {
	_ = a.server.Close()
	<-a.served
}

// Calls returns what was asked so far, oldest first.
func (a *API) Calls() []Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := make([]Call, len(a.calls))
	for i, c := range a.calls {
		calls[i] = *c
	}
	return calls
}

// Counts returns the calls of count_tokens so far, oldest first.
func (a *API) Counts() []Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Call(nil), a.counts...)
}

// Admit has judge decide about the credentials of all calls from now on: it returns the status of an error, or 0 for those
// that are good.
func (a *API) Admit(judge func(credential string) (status int)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.judge = judge
}

// refused is the status of the error that a call's credential is refused with, or 0.
func (a *API) refused(r *http.Request) int {
	a.mu.Lock()
	judge := a.judge
	a.mu.Unlock()
	if judge == nil {
		return 0
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		token = r.Header.Get("X-Api-Key")
	}
	return judge(token)
}

// Forget drops the calls so far, for those who let it run for long.
func (a *API) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls, a.counts = nil, nil
}

// Open is the number of calls under way.
func (a *API) Open() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

type request struct {
	Model    string    `json:"model"`
	Stream   bool      `json:"stream"`
	Messages []message `json:"messages"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type block struct {
	Type    string          `json:"type"`
	Text    string          `json:"text"`
	Content json.RawMessage `json:"content"`
}

func (m message) blocks() []block {
	var text string
	if json.Unmarshal(m.Content, &text) == nil {
		return []block{{Type: "text", Text: text}}
	}
	var blocks []block
	_ = json.Unmarshal(m.Content, &blocks)
	return blocks
}

// text is what the user or the assistant said.
func (m message) text() string {
	var texts []string
	for _, b := range m.blocks() {
		if b.Type == "text" && !strings.HasPrefix(b.Text, "<system-reminder>") {
			texts = append(texts, strings.TrimSpace(b.Text))
		}
	}
	return strings.Join(texts, "\n")
}

// toolResult is the content of the message's tool result.
func (m message) toolResult() (string, bool) {
	for _, b := range m.blocks() {
		if b.Type == "tool_result" {
			var text string
			if json.Unmarshal(b.Content, &text) != nil {
				text = message{Content: b.Content}.text()
			}
			return text, true
		}
	}
	return "", false
}

// ServeHTTP answers one call.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	count := r.URL.Path == "/v1/messages/count_tokens"
	if r.Method != http.MethodPost || r.URL.Path != "/v1/messages" && !count {
		http.NotFound(w, r)
		return
	}
	var req request
	var raw json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil || json.Unmarshal(raw, &req) != nil || len(req.Messages) == 0 {
		fail(w, http.StatusBadRequest)
		return
	}
	call := &Call{At: time.Now(), Header: r.Header.Clone(), Body: raw, Model: req.Model}
	a.begin(call, count)
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.open--
		call.Aborted = r.Context().Err() != nil
	}()
	switch status := a.refused(r); {
	case status != 0:
		fail(w, status)
	case count:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"input_tokens":10}`))
	default:
		a.answer(r.Context(), w, req)
	}
}

func (a *API) begin(call *Call, count bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open++
	if count {
		a.counts = append(a.counts, *call)
		return
	}
	a.calls = append(a.calls, call)
}

func fail(w http.ResponseWriter, status int) {
	kind := map[int]string{400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 529: "overloaded_error"}[status]
	if kind == "" {
		kind = "api_error"
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Should-Retry", "false")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"error","error":{"type":%q,"message":"the stand-in was asked for this"}}`, kind)
}

// parse takes the directives of the last thing the user said.
func parse(req request) (text string, d directive.Set, result string, isResult bool) {
	for i := len(req.Messages) - 1; i >= 0; i-- {
		m := req.Messages[i]
		if m.Role != "user" {
			continue
		}
		if r, ok := m.toolResult(); ok && i == lastUser(req) {
			result, isResult = r, true
		}
		if text = m.text(); text != "" {
			break
		}
	}
	return text, directive.Parse(text), result, isResult
}

func lastUser(req request) int {
	for i := len(req.Messages) - 1; i >= 0; i-- {
		if req.Messages[i].Role == "user" {
			return i
		}
	}
	return -1
}

func (a *API) answer(ctx context.Context, w http.ResponseWriter, req request) {
	text, d, result, isResult := parse(req)
	rest(ctx, d.Duration("latency"))
	if d.Has("status") {
		fail(w, d.Number("status"))
		return
	}
	if d.Has("garbage") && !req.Stream {
		_, _ = w.Write([]byte("<html>not an answer</html>"))
		return
	}
	if !req.Stream {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"msg_%s","type":"message","role":"assistant","model":%q,"content":[{"type":"text","text":"ok"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}`, uuid.NewString(), req.Model)
		return
	}
	s := &sse{ctx: ctx, w: w, flush: http.NewResponseController(w).Flush}
	s.begin(req.Model)
	switch {
	case d.Has("garbage"):
		_, _ = w.Write([]byte("event: message_delta\ndata: {not json\n\n"))
	case d.Has("silence"):
		<-ctx.Done()
	case d.Has("tool") && !isResult:
		name, input, _ := strings.Cut(d["tool"], " ")
		s.tool(name, input)
	case isResult:
		s.words([]string{"tool said: " + result}, directive.Set{}, false)
	default:
		s.words(chunks(a.words(text), d), d, a.cut(text, d))
	}
}

// cut reports whether this answer is one to be cut.
func (a *API) cut(text string, d directive.Set) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cuts[text]++
	return d.Has("cut") && (d["cut"] == "" || a.cuts[text] <= d.Number("cut"))
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

// sse writes the API's events.
type sse struct {
	ctx   context.Context
	w     http.ResponseWriter
	flush func() error
}

func (s *sse) event(kind, format string, args ...any) {
	fmt.Fprintf(s.w, "event: %s\ndata: {\"type\":%q,%s}\n\n", kind, kind, fmt.Sprintf(format, args...))
	_ = s.flush()
}

func (s *sse) begin(model string) {
	s.w.Header().Set("Content-Type", "text/event-stream")
	s.event("message_start", `"message":{"id":"msg_%s","type":"message","role":"assistant","model":%q,"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"output_tokens":1}}`, uuid.NewString(), model)
}

func (s *sse) words(words []string, d directive.Set, cut bool) {
	s.event("content_block_start", `"index":0,"content_block":{"type":"text","text":""}`)
	for _, word := range words {
		rest(s.ctx, d.Duration("delay"))
		if s.ctx.Err() != nil {
			return
		}
		quoted, _ := json.Marshal(word + strings.Repeat(" ", max(0, d.Number("size")-len(word))))
		s.event("content_block_delta", `"index":0,"delta":{"type":"text_delta","text":%s}`, quoted)
		if cut {
			panic(http.ErrAbortHandler)
		}
	}
	s.end("end_turn")
}

func (s *sse) tool(name, input string) {
	s.event("content_block_start", `"index":0,"content_block":{"type":"tool_use","id":"toolu_%s","name":%q,"input":{}}`, strings.ReplaceAll(uuid.NewString(), "-", "")[:24], name)
	quoted, _ := json.Marshal(input)
	s.event("content_block_delta", `"index":0,"delta":{"type":"input_json_delta","partial_json":%s}`, quoted)
	s.end("tool_use")
}

func (s *sse) end(reason string) {
	s.event("content_block_stop", `"index":0`)
	s.event("message_delta", `"delta":{"stop_reason":%q,"stop_sequence":null},"usage":{"output_tokens":5}`, reason)
	fmt.Fprint(s.w, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
	_ = s.flush()
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
