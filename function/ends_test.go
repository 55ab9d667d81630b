package function

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
)

const asking = `{"api_key":"sk-ant-api03-ends","messages":[{"role":"user","content":"Hi"}]}`

// hanging is an instance that says begin, if anything, and nothing more until the front hangs up.
func hanging(begin string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if begin != "" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, begin)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // to return is to answer, which may still reach a front that is about to hang up
	}
}

// ask serves one request that has only so long.
func ask(f *Front, within time.Duration) *httptest.ResponseRecorder {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/messages/pooled", strings.NewReader(asking))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

func TestFront_AStreamEndsExplicitlyBeforeItsDeadline(t *testing.T) {
	f, _, _ := newFront(t, hanging("data: {}\n\n"))
	begun := time.Now()
	w := ask(f, lastWords+3*time.Second)
	require.Less(t, time.Since(begun), lastWords+3*time.Second)
	require.Equal(t, "data: {}\n\n"+string(api.ErrorEvent(errTooLong))+api.Done, w.Body.String())
}

// When the silence is noticed the time that the client had for the last event has passed.
func TestFront_AStreamEndsExplicitlyAfterASilentHop(t *testing.T) {
	f, url, _ := newFront(t, hanging("data: {}\n\n"))
	f.clientTimeout, f.hopSilence = 500*time.Millisecond, time.Second
	status, _, body := post(t, url, question)
	require.Equal(t, 200, status)
	require.Equal(t, "data: {}\n\n"+string(api.ErrorEvent(errBroken))+api.Done, body)
}

func TestFront_ADeadlineBeforeAnyAnswerIs503(t *testing.T) {
	f, _, _ := newFront(t, hanging(""))
	w := ask(f, lastWords+300*time.Millisecond)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, w.Body.String(), errTooLong.Message)
}

func TestFront_DrainEndsAfterItsGraceAlsoWhatHasNoAnswerYet(t *testing.T) {
	f, _, _ := newFront(t, hanging(""))
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() { answer <- ask(f, time.Minute) }()
	eventuallyRunning(t, f, 1)
	begun := time.Now()
	f.Drain(100 * time.Millisecond)
	require.Less(t, time.Since(begun), 30*time.Second)
	w := <-answer
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, w.Body.String(), errEnding.Message)
}

// The framework turns a panic of its function into a clean end with the panic's text in the stream.
func TestFront_UnderTheFrameworkABrokenStreamEndsExplicitlyToo(t *testing.T) {
	f, _, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {}\n\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	name := "Front-" + rand.Text() // a name can be registered once
	functions.HTTP(name, f.ServeHTTP)
	t.Setenv("FUNCTION_TARGET", name)
	port, err := freeport.Port()
	require.NoError(t, err)
	go func() { _ = funcframework.StartHostPort("127.0.0.1", port) }() // never ends
	base := "http://127.0.0.1:" + port
	c := client.Client{URL: base, HTTP: http.DefaultClient}
	require.Eventually(t, func() bool { return c.Healthy(t.Context()) }, 30*time.Second, 10*time.Millisecond)
	answer, err := http.Post(base+"/v1/messages/pooled", "application/json", strings.NewReader(asking))
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, "data: {}\n\n"+string(api.ErrorEvent(errBroken))+api.Done, string(body))
}
