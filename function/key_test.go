package function

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

// shapeOf is one way to ask for a turn.
type shapeOf struct{ path, body string }

var everyShape = []shapeOf{
	{api.PathMessages, question},
	{api.PathMessagesAPI, `{"model":"haiku","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}`},
	{api.PathChat, `{"model":"haiku","messages":[{"role":"user","content":"hi"}]}`},
}

// by asks with ada's key.
func (a shapeOf) by(t *testing.T, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	return do(t, http.MethodPost, url+a.path, a.body, append(headers, "X-Api-Key", "sk-ant-api03-ada")...)
}

func TestFront_AKeyIsPassedOnInEveryShapeWithWhatItIsFor(t *testing.T) {
	var keys, originals []string
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get(api.HeaderIdempotencyKey))
		originals = append(originals, r.Header.Get(api.HeaderOriginal))
		events(api.Done)(w, r)
	})
	for _, shape := range everyShape {
		keys, originals = nil, nil
		shape.by(t, url, "Idempotency-Key", "a-key")
		shape.by(t, url)
		shape.body = strings.Replace(shape.body, `"hi"`, `"hi" `, 1)
		shape.by(t, url, "Idempotency-Key", `"quoted",!~`)
		require.Equal(t, []string{"a-key", "", `"quoted",!~`}, keys, shape.path)
		require.Empty(t, originals[1])
		if shape.path == api.PathMessages {
			require.Equal(t, []string{"", "", ""}, originals, "it isn't translated")
			continue
		}
		require.Regexp(t, "^[0-9a-f]{64}$", originals[0])
		require.NotEqual(t, originals[0], originals[2], "another body, whatever it is translated to")
	}
}

func TestFront_OddKeysAreRefused(t *testing.T) {
	_, url, _ := newFront(t, events(api.Done))
	for name, headers := range map[string][]string{
		"empty":       {"Idempotency-Key", ""},
		"space":       {"Idempotency-Key", "a key"},
		"no ASCII":    {"Idempotency-Key", "schlüssel"},
		"too long":    {"Idempotency-Key", strings.Repeat("k", 256)},
		"interrupted": {"Idempotency-Key", "a-key", "X-Claudepool-On-Disconnect", "interrupt"},
	} {
		for _, shape := range everyShape {
			if name == "interrupted" && shape.path == api.PathMessages {
				shape.body = strings.Replace(shape.body, "{", `{"on_disconnect":"interrupt",`, 1)
			}
			answer, text := shape.by(t, url, headers...)
			require.Equal(t, http.StatusBadRequest, answer.StatusCode, name)
			require.Contains(t, text, "Idempotency-Key", name)
			require.Equal(t, "false", answer.Header.Get(api.HeaderShouldRetry))
		}
	}
	answer, _ := everyShape[0].by(t, url, "Idempotency-Key", strings.Repeat("k", 255))
	require.Equal(t, http.StatusOK, answer.StatusCode)
}

func TestFront_TwoKeysAreRefused(t *testing.T) {
	_, url, _ := newFront(t, events(api.Done))
	r, err := http.NewRequest(http.MethodPost, url+api.PathMessages, strings.NewReader(question))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header["Idempotency-Key"] = []string{"one", "two"}
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusBadRequest, answer.StatusCode)
}

func TestFront_ThatAKeyWasUsedIsToldAndNotToBeTriedAgain(t *testing.T) {
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.HeaderBegun, "1")
		refuse(http.StatusConflict, false)(w, r)
	})
	for _, shape := range everyShape {
		answer, text := shape.by(t, url, "Idempotency-Key", "a-key")
		require.Equal(t, http.StatusConflict, answer.StatusCode, text)
		require.Equal(t, "false", answer.Header.Get(api.HeaderShouldRetry))
	}
}
