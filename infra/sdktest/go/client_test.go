// Package gosdk_test uses Anthropic's SDK for Go against a running service: TestSDKs of infra/sdktest starts one and
// runs these tests.
package gosdk_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/stretchr/testify/require"
)

const (
	model = anthropic.ModelClaudeHaiku5_5
	// patience is how long one test may take.
	patience = time.Minute
)

var (
	service = os.Getenv("SDKTEST_SERVICE")
	seen    = os.Getenv("SDKTEST_SEEN")
)

func TestMain(m *testing.M) {
	if service == "" {
		fmt.Fprintln(os.Stderr, "go test claudepool/infra/sdktest runs these tests")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// user is a user of the service, with a client.
type user struct {
	*testing.T
	client   anthropic.Client
	requests int // how many the client has made, with those that it repeated
}

// newUser returns a user of the test's own, whose credential has a name in it.
func newUser(t *testing.T, name string, options ...option.RequestOption) *user {
	u := &user{T: t}
	count := func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		u.requests++
		return next(r)
	}
	key := fmt.Sprintf("sk-ant-oat01-go-%s-%s", strings.ReplaceAll(t.Name(), "/", "-"), name)
	u.client = anthropic.NewClient(append([]option.RequestOption{option.WithoutEnvironmentDefaults(),
		option.WithBaseURL(service),
		option.WithAPIKey(key), option.WithMiddleware(count)}, options...)...)
	return u
}

func (u *user) context() context.Context {
	ctx, cancel := context.WithTimeout(u.Context(), patience)
	u.Cleanup(cancel)
	return ctx
}

// params are what a request has that says these messages.
func params(messages ...anthropic.MessageParam) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{Model: model, MaxTokens: 1024, Messages: messages}
}

func says(text string) anthropic.MessageParam {
	return anthropic.NewUserMessage(anthropic.NewTextBlock(text))
}

// create asks for a message that isn't streamed, and returns the answer's header with it.
func (u *user) create(p anthropic.MessageNewParams, options ...option.RequestOption) (*anthropic.Message, http.Header) {
	u.Helper()
	var answer *http.Response
	message, err := u.client.Messages.New(u.context(), p, append(options, option.WithResponseInto(&answer))...)
	require.NoError(u, err)
	return message, answer.Header
}

// stream asks for a message that is streamed, and accumulates it.
func (u *user) stream(p anthropic.MessageNewParams, options ...option.RequestOption) (anthropic.Message, error) {
	events := u.client.Messages.NewStreaming(u.context(), p, options...)
	defer events.Close()
	var message anthropic.Message
	for events.Next() {
		require.NoError(u, message.Accumulate(events.Current()))
	}
	return message, events.Err()
}

// text is what a message says.
func text(m *anthropic.Message) string {
	var texts []string
	for _, block := range m.Content {
		if block.Type == "text" {
			texts = append(texts, block.Text)
		}
	}
	return strings.Join(texts, "")
}

// call is a call that the API has seen.
type call struct {
	Messages []string        `json:"messages"`
	Aborted  bool            `json:"aborted"`
	Body     json.RawMessage `json:"body"`
}

// calls are those that were made for a text.
func calls(t *testing.T, text string) (made []call) {
	t.Helper()
	answer, err := http.Get(seen + "?text=" + url.QueryEscape(text))
	require.NoError(t, err)
	defer answer.Body.Close()
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&made))
	return made
}

// once is the call that was made for a text, which has to be the only one.
func once(t *testing.T, text string) call {
	t.Helper()
	made := calls(t, text)
	require.True(t, len(made) == 1, "the API was asked %d times: %s", len(made), text) // their bodies are long
	return made[0]
}
