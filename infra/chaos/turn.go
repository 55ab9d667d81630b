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
	odd          bool          // it asks for a fault of the CLI
	hangUp       time.Duration // after which the client goes; 0: never
	front        *front
	instance     string // id
	outcome      outcome
	detail       string

	sent, begun, ended time.Time // begun is when the first event came
}

// ask sends the turn and reads its answer to the end.
func (t *talker) ask(ctx context.Context, f *front, asked turn) turn {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(asked.hangUp, patience))
	defer cancel()
	asked.front, asked.sent = f, time.Now()
	body, _ := json.Marshal(map[string]any{ // of strings only
		"oauth_credentials": map[string]string{"access_token": t.token}, "model": "haiku", "session_id": t.session,
		"messages": []map[string]string{{"role": "user", "content": asked.text}},
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v1/messages/pooled", bytes.NewReader(body))
	if err != nil {
		panic(err) // the URL is ours
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := t.load.client.Do(r)
	if err != nil {
		asked.broke(err)
		if f.retired.Load() && t.load.stage.ledger.wasRun(asked.ticket) == 0 {
			asked.outcome = unreached // it was chosen before and asked after the front's end
		}
		return asked.at(time.Now())
	}
	defer response.Body.Close()
	asked.instance = response.Header.Get(api.HeaderInstance)
	if response.StatusCode != http.StatusOK {
		asked.status(response)
		return asked.at(time.Now())
	}
	asked.read(response.Body)
	return asked.at(time.Now())
}

func (a turn) at(ended time.Time) turn {
	a.ended = ended
	return a
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
}

// read takes a stream apart.
func (a *turn) read(body io.Reader) {
	result, failure := gjson.Result{}, ""
	for lines := claude.NewReader(body); ; {
		line, err := lines.Next()
		if err != nil {
			a.broke(fmt.Errorf("the stream ended without its mark: %w", err))
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
			a.conclude(result, failure)
			return
		}
		if others := foreign(data, a.ticket); others != "" {
			a.outcome, a.detail = wrong, "the stream holds words of "+others
			return
		}
		switch event := gjson.ParseBytes(data); event.Get("type").Str {
		case "result":
			result = event
		case "error":
			failure = event.Raw
		}
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
func (a *turn) conclude(result gjson.Result, failure string) {
	switch {
	case failure != "":
		a.outcome, a.detail = failed, failure
	case !result.Exists():
		a.outcome, a.detail = lost, "the stream has neither a result nor an error"
	case result.Get("is_error").Bool():
		a.outcome, a.detail = failed, result.Raw
	case result.Get("result").Str != "reply to: "+a.text && !a.odd:
		a.outcome, a.detail = wrong, "the answer is "+result.Raw
	default:
		a.outcome = answered
	}
}

// why is the message of the error that the turn ended with.
func (a *turn) why() string {
	_, body, _ := strings.Cut(a.detail, "{")
	return cmp.Or(gjson.Get("{"+body, "error.message").Str, gjson.Get("{"+body, "result").Str, a.detail)
}
