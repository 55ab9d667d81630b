package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// The paths of the API that are passed on.
const (
	pathMessages    = "/v1/messages"
	pathCountTokens = "/v1/messages/count_tokens" // #nosec G101 -- a path
)

// Verdict is what an answer of the API says of the credential that it was asked with.
type Verdict int

// The verdicts.
const (
	Open     Verdict = iota // nothing: the API is busy or out of order, or was asked for something else that is wrong
	Proven                  // that it is good
	Rejected                // that it isn't
)

func (v Verdict) String() string { return [...]string{"open", "proven", "refuted"}[v] }

// The types of errors by which the API refuses a credential.
const (
	authenticationError = "authentication_error"
	permissionError     = "permission_error"
)

// maxErrorBody bounds what is read of an answer to judge it, in bytes. The API's errors have some hundred.
const maxErrorBody = 16 << 10

// OnAnswer has f called with what every answer to a process says of the credential that the call was made with. It
// comes with the answer's status, before the process gets any of it: f must not block. There is one f, and it is to be
// set before the first process is bound.
func (b *Broker) OnAnswer(f func(Credential, Verdict)) { b.onAnswer.Store(&f) }

// judge looks at an answer, which stays as it is for its next reader.
func judge(r *http.Response) Verdict {
	switch {
	case r.StatusCode >= 200 && r.StatusCode < 300:
		return Proven
	case r.StatusCode == http.StatusUnauthorized:
		return Rejected
	case r.StatusCode == http.StatusForbidden:
		if kind := errorType(r); kind == authenticationError || kind == permissionError {
			return Rejected
		}
	}
	return Open
}

// errorType is the type of the error that an answer tells of, empty if it can't be told.
func errorType(r *http.Response) string {
	var seen bytes.Buffer
	var answer struct {
		Error struct {
			Type string `json:"type"`
		} `json:"error"`
	}
	err := json.NewDecoder(io.TeeReader(io.LimitReader(r.Body, maxErrorBody), &seen)).Decode(&answer)
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&seen, r.Body), r.Body}
	if err != nil {
		return ""
	}
	return answer.Error.Type
}

// proof is the cheapest thing to ask of the API: it counts the tokens of a word. The model is one that every credential
// may use.
const proof = `{"model":"claude-haiku-5-5","messages":[{"role":"user","content":"hello"}]}`

// Prove asks the API itself about a credential, without a process. Only some may ask at a time; the others wait, and
// get ErrTooManyProofs. How long they wait is no part of the time that the API has, or where many wait everybody's
// would be too short. An error comes with Open: nobody could be asked. That a credential isn't permitted this call says
// nothing of those that its owner makes.
func (b *Broker) Prove(ctx context.Context, c Credential) (Verdict, error) {
	wait, cancel := context.WithTimeout(ctx, b.limits.crowd)
	defer cancel()
	if b.proving.Acquire(wait, 1) != nil {
		return Open, ErrTooManyProofs
	}
	defer b.proving.Release(1)
	ctx, cancel = context.WithTimeout(ctx, b.limits.proof)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.upstream.JoinPath(pathCountTokens).String(),
		strings.NewReader(proof))
	if err != nil {
		return Open, fmt.Errorf("broker: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Anthropic-Version", "2023-06-01")
	r.Header.Set("Anthropic-Beta", oauthBeta)
	c.authorize(r.Header)
	response, err := b.calls.RoundTrip(r) // follows no redirects
	if err != nil {
		return Open, fmt.Errorf("broker: the API could not be reached: %w", err)
	}
	defer response.Body.Close()
	verdict := judge(response)
	if response.StatusCode == http.StatusForbidden && errorType(response) == permissionError {
		verdict = Open
	}
	_, _ = io.CopyN(io.Discard, response.Body, maxErrorBody) // so that the connection can be used again
	return verdict, nil
}
