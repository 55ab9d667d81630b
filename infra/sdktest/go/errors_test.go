package gosdk_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/anthropics/anthropic-sdk-go/v2/shared"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// failure returns the API's error that a request ended with.
func failure(t *testing.T, err error) *anthropic.Error {
	t.Helper()
	var failed *anthropic.Error
	require.ErrorAs(t, err, &failed)
	require.NotEmpty(t, failed.RequestID)
	require.NotEmpty(t, failed.Message)
	return failed
}

// The SDK would repeat a request that ends with one of these, but what has run isn't to run again.
func TestErrors_ATurnThatFailedIsNeverSentAgain(t *testing.T) {
	for status, kind := range map[int]shared.ErrorType{
		http.StatusTooManyRequests:     shared.ErrorTypeRateLimitError,
		http.StatusInternalServerError: shared.ErrorTypeAPIError,
		529:                            shared.ErrorTypeOverloadedError,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			u := newUser(t, "failing", option.WithHeader("x-claudepool-session", "9d0e5d55-7c0b-4b5e-a1a4-5f6f0f3f7a52"))
			for _, way := range []string{"whole", "streamed"} {
				question := fmt.Sprintf("go %s %d [[status=%d]]", way, status, status)
				var err error
				if way == "whole" {
					_, err = u.client.Messages.New(u.context(), params(says(question)))
				} else {
					_, err = u.stream(params(says(question)))
				}
				failed := failure(t, err)
				require.Equal(t, kind, failed.Type(), way)
				once(t, question)
			}
			require.Equal(t, 2, u.requests)
			message, _ := u.create(params(says(fmt.Sprintf("go after %d", status))))
			require.Equal(t, fmt.Sprintf("reply to: go after %d", status), text(message))
			require.Equal(t, []string{fmt.Sprintf("user: go after %d", status)}, once(t,
				fmt.Sprintf("go after %d", status)).Messages)
		})
	}
}

// A stream that fails in the middle has no message_stop, and the SDK knows why.
func TestErrors_InTheMiddleOfAStream(t *testing.T) {
	u := newUser(t, "middle")
	_, err := u.stream(params(says("go middle [[1:words=4]][[1:error=overloaded_error]][[2:status=529]]")))
	require.Equal(t, shared.ErrorTypeOverloadedError, failure(t, err).Type())
	require.Equal(t, 1, u.requests)
}

func TestErrors_WhatIsRefusedSaysWhy(t *testing.T) {
	tool := anthropic.ToolUnionParam{OfTool: &anthropic.ToolParam{Name: "mine",
		InputSchema: anthropic.ToolInputSchemaParam{}}}
	withTools, tooLarge := params(says("go refused")), params(says(strings.Repeat("go refused ", 1<<20/11)))
	withTools.Tools = []anthropic.ToolUnionParam{tool}
	prefilled := params(says("go refused"), anthropic.NewAssistantMessage(anthropic.NewTextBlock("I")))
	for name, c := range map[string]struct {
		params anthropic.MessageNewParams
		status int
		kind   shared.ErrorType
	}{
		"tools":     {withTools, http.StatusBadRequest, shared.ErrorTypeInvalidRequestError},
		"prefilled": {prefilled, http.StatusBadRequest, shared.ErrorTypeInvalidRequestError},
		"empty":     {params(), http.StatusBadRequest, shared.ErrorTypeInvalidRequestError},
		"too large": {tooLarge, http.StatusRequestEntityTooLarge, "request_too_large"},
		"refused":   {params(says("go refused")), http.StatusUnauthorized, shared.ErrorTypeAuthenticationError},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t, name)
			_, err := u.client.Messages.New(u.context(), c.params)
			failed := failure(t, err)
			require.Equal(t, c.status, failed.StatusCode, failed.Message)
			require.Equal(t, c.kind, failed.Type())
			_, err = u.stream(c.params)
			require.Equal(t, c.kind, failure(t, err).Type())
			require.Equal(t, 2, u.requests)
		})
	}
	u := newUser(t, "nobody")
	_, err := u.client.Models.Get(u.context(), "no-such-model", anthropic.ModelGetParams{})
	require.Equal(t, http.StatusNotFound, failure(t, err).StatusCode)
}

// A tool runner asks for threads, and goes on without them where it is told that there are none.
func TestErrors_ThreadsAreUnsupported(t *testing.T) {
	u := newUser(t, "thread")
	_, err := u.client.Beta.Messages.New(u.context(), anthropic.BetaMessageNewParams{Model: model, MaxTokens: 1024,
		Messages: []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("go thread"))}},
		option.WithJSONSet("thread", map[string]string{"type": "create"}))
	failed := failure(t, err)
	require.Equal(t, http.StatusBadRequest, failed.StatusCode)
	require.EqualValues(t, "thread_unsupported_request", failed.ErrorCode())
	require.Empty(t, calls(t, "go thread"))
}

// What never began is sent again: of three turns that come at once to a conversation with one place to wait, one is
// refused.
func TestRetries_WhatNeverBeganIsSentAgain(t *testing.T) {
	session := option.WithHeader("x-claudepool-session", "5e3c1f0a-3f0e-4a51-9b1c-9a8f0c6d2e11")
	var asking sync.WaitGroup
	for i := range 3 {
		asking.Go(func() {
			question := fmt.Sprintf("go busy %d [[words=5]][[delay=100ms]]", i)
			u := newUser(t, "busy")
			message, err := u.client.Messages.New(u.context(), params(says(question)), session, option.WithMaxRetries(30))
			if assert.NoError(t, err) {
				assert.Equal(t, "w0 w1 w2 w3 w4 ", text(message))
			}
			assert.Equal(t, 1, len(calls(t, question)))
		})
	}
	asking.Wait()
}

// The SDK repeats a request whose answer breaks off, also one that begins with 200, unless the answer's header says not
// to.
func TestRetries_ATurnWhoseAnswerBreaksOffIsNotSentAgain(t *testing.T) {
	cut := &http.Client{Transport: cutting{}}
	u := newUser(t, "cut", option.WithHTTPClient(cut))
	_, err := u.client.Messages.New(u.context(), params(says("go cut")))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, 1, u.requests)
	once(t, "go cut")
}

// cutting is a line that breaks in the middle of every answer.
type cutting struct{}

func (cutting) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		whole := answer.Body
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(whole, 20), broken{}), whole}
	}
	return answer, err
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
