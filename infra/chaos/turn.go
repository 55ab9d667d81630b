package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
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
	request := client.Turn(t.token, a.text)
	request["session_id"] = t.session
	if a.finish {
		request["on_disconnect"] = api.Finish
	}
	t.follow(ctx, f, a, func(ctx context.Context, c *client.Client) (*client.Stream, error) {
		return c.Begin(ctx, request)
	})
	for deadline := time.Now().Add(recovery); a.canGoOn() &&
		time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if f := t.choose(); f != nil {
			a.resumed, a.hangUp = true, 0
			last := string(api.AppendEventID(nil, a.id, a.events))
			t.follow(ctx, f, a, func(ctx context.Context, c *client.Client) (*client.Stream, error) {
				return c.Resume(ctx, client.Credentials(t.token), last)
			})
		}
	}
	a.ended = time.Now()
}

// canGoOn reports whether the stream has come to no end and may be taken up again.
func (a *turn) canGoOn() bool {
	return a.id != "" && (a.outcome == cut || a.outcome == hungUp || a.resumed &&
		(a.outcome == refused || a.outcome == unreached))
}

// opening asks a front for a turn's stream, or for the rest of it.
type opening func(context.Context, *client.Client) (*client.Stream, error)

// follow opens a stream of the turn and reads it.
func (t *talker) follow(ctx context.Context, f *front, a *turn, open opening) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(a.hangUp, patience))
	defer cancel()
	a.front = f
	stream, err := open(ctx, &client.Client{URL: f.url, HTTP: t.load.client})
	if refusal := (*client.Refusal)(nil); errors.As(err, &refusal) {
		a.refuse(refusal)
		return
	}
	if err != nil {
		a.broke(err)
		if f.retired.Load() && (a.resumed || t.load.stage.ledger.wasRun(a.ticket) == 0) {
			a.outcome = unreached // it was chosen before and asked after the front's end
		}
		return
	}
	defer stream.Close()
	a.instance = cmp.Or(stream.Header.Get(api.HeaderInstance), a.instance)
	a.id = stream.Header.Get(api.HeaderTurn)
	a.read(stream)
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

// refuse says how a turn ended that has no stream.
func (a *turn) refuse(r *client.Refusal) {
	a.instance = cmp.Or(r.Header.Get(api.HeaderInstance), a.instance)
	a.outcome, a.detail = refused, r.Error()
	if gjson.Get(r.Detail, "type").Str != "error" {
		a.outcome = lost
	}
	if r.Status == http.StatusNotFound {
		a.id = "" // the turn was its instance's, which is gone
	}
}

// read takes a stream apart.
func (a *turn) read(stream *client.Stream) {
	for stream.Next() {
		event := stream.Event()
		if a.begun.IsZero() {
			a.begun = time.Now()
		}
		a.know(event.ID)
		if event.ID != "" && event.ID != string(api.AppendEventID(nil, a.id, a.events+1)) {
			a.outcome, a.detail = wrong, fmt.Sprintf("event %s after number %d", event.ID, a.events)
			return
		}
		if other := foreign(event.Data, a.ticket); other != "" {
			a.outcome, a.detail = wrong, "the stream holds words of "+other
			return
		}
		a.take(gjson.ParseBytes(event.Data))
	}
	if err := stream.Err(); err != nil {
		a.know(stream.Event().ID) // of an event that was cut
		a.broke(err)
		return
	}
	a.conclude()
}

// know takes the turn's id from that of an event, where the headers had to go before the turn began.
func (a *turn) know(event string) {
	if a.id == "" {
		a.id, _, _ = strings.Cut(event, ".")
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
