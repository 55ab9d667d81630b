// Package client is a client of the service, for programs and tests: it has turns, reads their streams, and asks for
// the stats.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"claudepool/pool/api"
)

// detailBytes is how much of a refusal is kept.
const detailBytes = 4 << 10

// Client asks one front. It may be used concurrently.
type Client struct {
	URL  string
	HTTP *http.Client
}

// Fields are those of a request.
type Fields map[string]any

// Credentials are those of an OAuth user.
func Credentials(token string) Fields {
	return Fields{"oauth_credentials": map[string]string{"access_token": token}}
}

// Turn is a request for a turn of the user's default conversation.
func Turn(token, text string) Fields {
	turn := Credentials(token)
	turn["model"] = "haiku"
	turn["messages"] = []map[string]string{{"role": "user", "content": text}}
	return turn
}

// Refusal is the error of an answer other than 200.
type Refusal struct {
	Status int
	Header http.Header
	Detail string // the beginning of its body
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%d %s: %s", r.Status, http.StatusText(r.Status), r.Detail)
}

// Begin begins a turn. The stream has to be closed.
func (c *Client) Begin(ctx context.Context, turn Fields) (*Stream, error) {
	return c.stream(ctx, api.PathMessages, turn, "")
}

// Resume takes a turn up again after the event of that id. The stream has to be closed.
func (c *Client) Resume(ctx context.Context, credentials Fields, lastEvent string) (*Stream, error) {
	return c.stream(ctx, api.PathResume, credentials, lastEvent)
}

// Ask has a turn of the user's default conversation.
func (c *Client) Ask(ctx context.Context, token, text string) (Answer, error) {
	stream, err := c.Begin(ctx, Turn(token, text))
	if err != nil {
		return Answer{}, err
	}
	defer stream.Close()
	return stream.Answer()
}

func (c *Client) stream(ctx context.Context, path string, request Fields, lastEvent string) (*Stream, error) {
	sent := time.Now()
	answer, err := c.Post(ctx, path, request, lastEvent)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, refusal(answer)
	}
	return newStream(answer, sent), nil
}

// Post sends a request. The answer, of whatever status, has to be closed.
func (c *Client) Post(ctx context.Context, path string, request Fields, lastEvent string) (*http.Response, error) {
	r, err := c.Request(ctx, path, request)
	if err != nil {
		return nil, err
	}
	if lastEvent != "" {
		r.Header.Set(api.HeaderLastEvent, lastEvent)
	}
	return c.HTTP.Do(r)
}

// Request returns a request to be sent with HTTP.
func (c *Client) Request(ctx context.Context, path string, request Fields) (*http.Request, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	return r, nil
}

// refusal reads and closes an answer.
func refusal(answer *http.Response) error {
	defer answer.Body.Close()
	detail, _ := io.ReadAll(io.LimitReader(answer.Body, detailBytes))
	return &Refusal{Status: answer.StatusCode, Header: answer.Header, Detail: string(detail)}
}

// Get returns what is at a path.
func (c *Client) Get(ctx context.Context, path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.HTTP.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %w", path, refusal(answer))
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

// Stats are those of all instances.
func (c *Client) Stats(ctx context.Context) (stats api.Stats, err error) {
	text, err := c.Get(ctx, "/v1/pool/stats")
	if err != nil {
		return stats, err
	}
	return stats, json.Unmarshal(text, &stats)
}

// Healthy reports whether the front takes requests.
func (c *Client) Healthy(ctx context.Context) bool {
	_, err := c.Get(ctx, "/health")
	return err == nil
}
