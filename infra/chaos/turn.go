package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/claude"
)

// outcome is how a turn ended for its client.
type outcome int

const (
	answered  outcome = iota
	refused           // an error before the stream
	failed            // an error in the stream
	hungUp            // the client went before the end
	unreached         // the front was gone already
	cut               // the front was killed meanwhile
	wrong             // answered with other words
	lost              // neither an answer nor an error
)

// turn is one question and what became of it.
type turn struct {
	text, ticket string
	first        bool          // of its conversation
	odd          bool          // it asks for a fault of the CLI
	hangUp       time.Duration // after which the client goes; 0: never
	finish       bool          // it is to go on without its client, who then comes back

	front    *front
	instance string // id
	outcome  outcome
	detail   string
	resumed  bool

	sent, begun, ended time.Time // begun is when the first event came

	id     string // of the turn, where it can be taken up again
	events int    // so far
	words  strings.Builder
	result gjson.Result
	broken string // the error event
}

// ask sends the turn and reads its answer to the end. One whose connection breaks is taken up again if it may be.
func (t *talker) ask(ctx context.Context, f *front, a *turn) {
	a.sent = time.Now()
	credential := map[string]string{"access_token": t.token}
	request := map[string]any{"oauth_credentials": credential, "model": "haiku", "session_id": t.session,
		"messages": []map[string]string{{"role": "user", "content": a.text}}}
	if a.finish {
		request["on_disconnect"] = api.Finish
	}
	t.post(ctx, f, a, api.PathMessages, request)
	for deadline := time.Now().Add(recovery); a.canGoOn() && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if f := t.choose(); f != nil {
			a.resumed, a.hangUp = true, 0
			t.post(ctx, f, a, api.PathResume, map[string]any{"oauth_credentials": credential})
		}
	}
	a.ended = time.Now()
}

// canGoOn reports whether the stream has come to no end and may be taken up again.
func (a *turn) canGoOn() bool {
	return a.id != "" && (a.outcome == cut || a.outcome == hungUp || a.resumed && (a.outcome == refused || a.outcome == unreached))
}

// post makes one request for the turn, or for the rest of it.
func (t *talker) post(ctx context.Context, f *front, a *turn, path string, request map[string]any) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(a.hangUp, patience))
	defer cancel()
	a.front = f
	body, _ := json.Marshal(request) // of strings only
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+path, bytes.NewReader(body))
	if err != nil {
		panic(err) // the URL is ours
	}
	r.Header.Set("Content-Type", "application/json")
	if path == api.PathResume {
		r.Header.Set(api.HeaderLastEvent, string(api.AppendEventID(nil, a.id, a.events)))
	}
	response, err := t.load.client.Do(r)
	if err != nil {
		a.broke(err)
		if f.retired.Load() && (a.resumed || t.load.stage.ledger.wasRun(a.ticket) == 0) {
			a.outcome = unreached // it was chosen before and asked after the front's end
		}
		return
	}
	defer response.Body.Close()
	a.instance = cmp.Or(response.Header.Get(api.HeaderInstance), a.instance)
	if response.StatusCode != http.StatusOK {
		a.status(response)
		return
	}
	a.id = response.Header.Get(api.HeaderTurn)
	a.read(response.Body)
}

// broke says how a turn ended whose connection did before the end mark.
func (a *turn) broke(err error) {
	a.detail = err.Error()
	switch {
	case a.hangUp > 0 && errors.Is(err, context.DeadlineExceeded):
		a.outcome = hungUp
	case a.front.killed.Load():
		a.outcome = cut
	default:
		a.outcome = lost
	}
}

// status reads a refusal.
func (a *turn) status(response *http.Response) {
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	a.outcome, a.detail = refused, fmt.Sprintf("%s: %s", response.Status, body)
	if gjson.GetBytes(body, "type").Str != "error" {
		a.outcome = lost
	}
	if response.StatusCode == http.StatusNotFound {
		a.id = "" // the turn was its instance's, which is gone
	}
}

// read takes a stream apart.
func (a *turn) read(body io.Reader) {
	for lines := claude.NewReader(body); ; {
		line, err := lines.Next()
		if err != nil {
			a.broke(fmt.Errorf("the stream ended without its mark: %w", err))
			return
		}
		id, found := bytes.CutPrefix(line, []byte("id: "))
		if found && a.id == "" { // the headers had to go before the turn began
			turn, _, _ := bytes.Cut(id, []byte("."))
			a.id = string(turn)
		}
		if found && string(id) != string(api.AppendEventID(nil, a.id, a.events+1)) {
			a.outcome, a.detail = wrong, fmt.Sprintf("event %s after number %d", id, a.events)
			return
		}
		data, found := bytes.CutPrefix(line, []byte("data: "))
		if !found {
			continue
		}
		if a.begun.IsZero() {
			a.begun = time.Now()
		}
		if string(line) == strings.TrimSpace(api.Done) {
			a.conclude()
			return
		}
		if other := foreign(data, a.ticket); other != "" {
			a.outcome, a.detail = wrong, "the stream holds words of "+other
			return
		}
		a.take(gjson.ParseBytes(data))
	}
}

// take keeps what an event says.
func (a *turn) take(event gjson.Result) {
	a.events++
	switch event.Get("type").Str {
	case "result":
		a.result = event
	case "error":
		a.broken = event.Raw
	case "stream_event":
		a.words.WriteString(event.Get("event.delta.text").Str)
	}
}

// foreign returns the ticket of another turn in a line, if there is one.
func foreign(line []byte, own string) string {
	for _, found := range ticket.FindAll(line, -1) {
		if string(found) != own {
			return string(found)
		}
	}
	return ""
}

// conclude judges a stream that ended with its mark.
func (a *turn) conclude() {
	want := "reply to: " + a.text
	switch {
	case a.broken != "":
		a.outcome, a.detail = failed, a.broken
	case !a.result.Exists():
		a.outcome, a.detail = lost, "the stream has neither a result nor an error"
	case a.result.Get("is_error").Bool():
		a.outcome, a.detail = failed, a.result.Raw
	case !a.odd && a.result.Get("result").Str != want:
		a.outcome, a.detail = wrong, "the answer is "+a.result.Raw
	case !a.odd && a.words.String() != want:
		a.outcome, a.detail = wrong, "the words that came are "+a.words.String()
	default:
		a.outcome = answered
	}
}

// why is the message of the error that the turn ended with.
func (a *turn) why() string {
	_, body, _ := strings.Cut(a.detail, "{")
	return cmp.Or(gjson.Get("{"+body, "error.message").Str, gjson.Get("{"+body, "result").Str, a.detail)
}
