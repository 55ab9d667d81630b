// Package pooltest has the stand-ins for what can't be had in a test or offline: the Messages API, and a CLI that shows
// faults the real one can't be made to show. The real CLI can't tell the API stand-in from the real API.
package pooltest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// API is a stand-in for the Messages API on a loopback port. What it answers is up to the text of the last user
// message: a plain text is answered with "reply to: " and the text; `[[name=value]]` directives ask for something else.
//
//	[[status=529]]           an error of that status, not to be retried
//	[[retry]]                which may be retried after all
//	[[latency=500ms]]        wait before the first byte
//	[[words=20]]             that many words, one event each
//	[[delay=50ms]]           wait before each word
//	[[bytes=4194304]]        one event with a text of that size
//	[[tool=Bash {…}]]        call a tool, and answer "tool said: " with its result; more lines are calls in parallel
//	[[say=a word]]           a text before the tool calls
//	[[size=65536]]           pad each word to that many bytes
//	[[empty]]                answer with nothing
//	[[stop=max_tokens]]      end for that reason
//	[[input_tokens=990000]]  say that the call had so many. Of that many the CLI makes a summary before the next call
//	[[usage=1 2 3 4 5]]      say that it took so many tokens: input, output, cache read, written for 5m and for 1h
//	[[compacting=1m]]        that one's latency
//	[[pause=1s]]             wait in the middle of the text
//	[[cut]]                  cut the connection in the middle of the text
//	[[error=api_error]]      an error event of that type in the middle of the text
//	[[garbage]]              answer with something that is no event stream
//	[[blocks={…},{…}]]       answer with these content blocks, of which there may be none
//	[[silence]]              begin to answer and then say nothing more
//
// With a number, as in [[2:status=500]], a directive holds only for the second call that is made for the text; a tool
// without one is called once. Calls that the CLI makes of its own accord, to have an answer continued, are such calls
// too. A call for a summary is answered with one, which begins with "summary of: ". Of the directives count_tokens
// takes status and latency.
type API struct {
	server *http.Server
	url    string
	served chan struct{}
	words  func(text string) string

	mu     sync.Mutex // guards the following
	calls  []*Call
	counts []Call                      // those of count_tokens
	models []Call                      // those about models
	judge  func(credential string) int // nil: all are good
	open   int
	asked  map[string]int // by text: how many calls were made for it
}

// Call is one request the API has seen.
type Call struct {
	At      time.Time
	URL     string // path and query
	Header  http.Header
	Body    []byte
	Model   string
	Aborted bool // the caller went before the answer's end
	Took    Took // what the API has said that it took, as far as it came
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
	a := &API{url: "http://" + listener.Addr().String(), served: make(chan struct{}), words: words,
		asked: make(map[string]int)}
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

// Lookups returns the calls about models so far, oldest first.
func (a *API) Lookups() []Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Call(nil), a.models...)
}

// Admit has judge decide about the credentials of all calls from now on: it returns the status of an error, or 0 for
// those that are good.
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
	return judge(credentialIn(r.Header))
}

// Forget drops the calls so far, for programs that let it run for long.
func (a *API) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls, a.counts, a.models = nil, nil, nil
}

// Open is the number of calls under way.
func (a *API) Open() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

// ServeHTTP answers one call.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path+"/", pathModels) {
		a.lookUp(w, r)
		return
	}
	count := r.URL.Path == "/v1/messages/count_tokens"
	if r.Method != http.MethodPost || r.URL.Path != "/v1/messages" && !count {
		http.NotFound(w, r)
		return
	}
	var req request
	var raw json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil || json.Unmarshal(raw, &req) != nil ||
		len(req.Messages) == 0 {
		fail(w, http.StatusBadRequest)
		return
	}
	call := &Call{At: time.Now(), URL: r.URL.String(), Header: r.Header.Clone(), Body: raw, Model: req.Model}
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
		a.countTokens(r.Context(), w, req)
	default:
		a.answer(r.Context(), w, req, func(took Took) {
			a.mu.Lock()
			defer a.mu.Unlock()
			call.Took = took
		})
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

// shouldRetry is a header that the CLI obeys.
const shouldRetry = "X-Should-Retry"

func fail(w http.ResponseWriter, status int) {
	kind := map[int]string{400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
		404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}[status]
	if kind == "" {
		kind = "api_error"
	}
	w.Header().Set("Content-Type", "application/json")
	if w.Header().Get(shouldRetry) == "" {
		w.Header().Set(shouldRetry, "false")
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"error","error":{"type":%q,"message":"the stand-in was asked for this"}}`, kind)
}
