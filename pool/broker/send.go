package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"strings"
)

// Call is a call of the API that a client makes itself, without a process.
type Call struct {
	Method, Path, Query string
	Header              http.Header // all there is but for the credential
	Body                []byte
}

// Answer is what the API says to a Call, all of it JSON.
type Answer struct {
	Status     int
	RetryAfter string // of the header of that name
	Body       []byte
}

var (
	// ErrManyCalls says that too many calls of clients' own are under way.
	ErrManyCalls = errors.New("broker: too many calls of clients are under way")
	// ErrNoAnswer says that the API gave no answer that can be passed on.
	ErrNoAnswer = errors.New("broker: no answer of the API's")
)

// maxAnswer is how long the answer to a Call may be, in bytes.
const maxAnswer = 1 << 20

// Send makes a call with the credential. What the API says of the credential is told to nobody: a client's own call
// proves nothing. The error is ErrManyCalls, ErrNoAnswer, or has ctx's.
func (b *Broker) Send(ctx context.Context, c Credential, call Call) (Answer, error) {
	if !b.sending.TryAcquire(1) {
		return Answer{}, ErrManyCalls
	}
	defer b.sending.Release(1)
	ctx, cancel := context.WithTimeout(ctx, b.limits.send)
	defer cancel()
	to := b.upstream.JoinPath(call.Path) // #nosec G125 -- api.NewCall knows its paths, and takes no other
	to.RawQuery = call.Query
	r, err := http.NewRequestWithContext(ctx, call.Method, to.String(), bytes.NewReader(call.Body))
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	maps.Copy(r.Header, call.Header)
	if len(call.Body) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	if betas := r.Header.Get("Anthropic-Beta"); !strings.Contains(betas, oauthBeta) {
		r.Header.Set("Anthropic-Beta", strings.TrimPrefix(betas+","+oauthBeta, ","))
	}
	c.authorize(r.Header)                 // which takes the flag from API keys
	response, err := b.calls.RoundTrip(r) // follows no redirects
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	defer response.Body.Close()
	return readAnswer(response)
}

// readAnswer reads an answer that is JSON and no redirect.
func readAnswer(r *http.Response) (Answer, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer+1))
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	case len(body) > maxAnswer:
		return Answer{}, fmt.Errorf("%w: it is longer than %d bytes", ErrNoAnswer, maxAnswer)
	case r.StatusCode >= 300 && r.StatusCode < 400, kind != "application/json", !json.Valid(body):
		return Answer{}, fmt.Errorf("%w: status %d, not JSON or a redirect", ErrNoAnswer, r.StatusCode)
	}
	return Answer{Status: r.StatusCode, RetryAfter: r.Header.Get("Retry-After"), Body: body}, nil
}
