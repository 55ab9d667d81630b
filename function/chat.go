package function

import (
	"net/http"
	"strings"
	"time"

	"claudepool/function/chat"
	"claudepool/pool/api"
)

// chat begins a turn as OpenAI's chat completions do.
func (f *Front) chat(w http.ResponseWriter, r *http.Request) {
	f.translated(w, r, func(body []byte) (*api.Request, []byte, answering, error) {
		req, pooled, asked, err := chat.Decode(body, r.Header)
		if err != nil {
			return nil, nil, answering{}, err
		}
		return req, pooled, answering{&asked.Asked, chat.NewAnswer(asked, time.Now())}, nil
	})
}

// chatPrefix is where paths begin that OpenAI's clients alone ask at.
const chatPrefix = "/v1/chat/"

// inShape puts answers to OpenAI's clients into OpenAI's shape, whatever wrote them. Requests for models are theirs if
// they name no version of the Messages API.
func inShape(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	switch {
	case strings.HasPrefix(r.URL.Path, chatPrefix):
		return &chatAnswers{ResponseWriter: w}
	case r.URL.Path == api.PathModels && r.Header.Get("Anthropic-Version") == "":
		r.URL.RawQuery = "limit=1000" // as there are no pages
		return &chatAnswers{ResponseWriter: w, whole: chat.Models}
	}
	return w
}

// chatAnswers translates answers that are written at once, as all errors are.
type chatAnswers struct {
	http.ResponseWriter
	whole  func([]byte) []byte // nil: what is no error is as it has to be
	failed bool
}

// Unwrap is for http.ResponseController.
func (c *chatAnswers) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *chatAnswers) WriteHeader(status int) {
	c.failed = status >= http.StatusBadRequest
	c.ResponseWriter.WriteHeader(status)
}

func (c *chatAnswers) Write(b []byte) (int, error) {
	translated := b
	switch {
	case c.failed:
		translated = chat.Failure(b)
	case c.whole != nil:
		translated = c.whole(b)
	}
	if n, err := c.ResponseWriter.Write(translated); err != nil {
		return min(n, len(b)), err
	}
	return len(b), nil
}
