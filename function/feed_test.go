package function

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/snapshot"
	"claudepool/pool/api"
)

// counted is a store that counts how often it is read, in the pace of a database.
type counted struct {
	*snapshot.Memory
	reads atomic.Int64
}

func (c *counted) List(ctx context.Context) ([]snapshot.Instance, error) {
	c.reads.Add(1)
	return c.Memory.List(ctx)
}

func (c *counted) Pace() snapshot.Pace {
	return snapshot.Pace{Write: 2 * time.Second, Read: time.Second}
}

func (c *counted) put(t *testing.T, id string) {
	t.Helper()
	require.NoError(t, c.Put(t.Context(), snapshot.Instance{ID: id, At: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}))
}

func newCounted() (*counted, *feed) {
	c := &counted{Memory: snapshot.NewMemory()}
	return c, newFeed(snapshot.NewView(c, slog.New(slog.DiscardHandler)))
}

// instancesOf are the ids of the instances in an event.
func instancesOf(t *testing.T, event string) (ids []string) {
	t.Helper()
	text, isData := strings.CutPrefix(event, "data: ")
	require.True(t, isData, event)
	require.True(t, strings.HasSuffix(event, "}\n\n"), event)
	require.Equal(t, 2, strings.Count(event, "\n"), "an event is one line")
	var stats api.Stats
	require.NoError(t, json.Unmarshal([]byte(text), &stats))
	for _, i := range stats.Instances {
		ids = append(ids, i.ID)
	}
	return ids
}

func TestFeed_TellsOfEachNewSnapshotAtOnceAndPingsBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, f := newCounted()
		store.put(t, "a")
		ctx, leave := context.WithCancel(t.Context())
		texts := make(chan string)
		go func() {
			defer close(texts)
			f.copyTo(ctx, func(text []byte) bool { texts <- string(text); return true })
		}()
		begun := time.Now()
		require.Equal(t, []string{"a"}, instancesOf(t, <-texts))
		require.Equal(t, begun, time.Now())
		require.Equal(t, api.Ping, <-texts)
		store.put(t, "b")
		require.Equal(t, []string{"a", "b"}, instancesOf(t, <-texts))
		require.Equal(t, api.Ping, <-texts)
		require.LessOrEqual(t, time.Since(begun), 3*feedInterval)
		leave()
		require.Equal(t, api.Done, <-texts)
		_, more := <-texts
		require.False(t, more)
	})
}

func TestFeed_ManyReadersCostOneReadEachTimeAndNobodyCostsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, f := newCounted()
		ctx, leave := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for range 20 {
			readers.Go(func() { f.copyTo(ctx, func([]byte) bool { return true }) })
			time.Sleep(137 * time.Millisecond)
		}
		before := store.reads.Load()
		time.Sleep(10 * feedInterval)
		require.EqualValues(t, 10, store.reads.Load()-before)
		leave()
		readers.Wait()
		before = store.reads.Load()
		time.Sleep(time.Hour)
		require.Equal(t, before, store.reads.Load())
	})
}

// What hasn't changed grows old all the same.
func TestFeed_ANewReaderIsToldAgesOfNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, f := newCounted()
		store.put(t, "a")
		age := func() float64 {
			var first []byte
			f.copyTo(t.Context(), func(text []byte) bool { first = text; return false })
			var stats api.Stats
			require.NoError(t, json.Unmarshal(first[len("data: "):], &stats))
			return stats.Instances[0].Age
		}
		require.Zero(t, age())
		time.Sleep(time.Minute)
		require.InDelta(t, 60, age(), 0.1)
	})
}

func TestFeed_AReaderWhoIsGoneIsNotWrittenToAgain(t *testing.T) {
	_, f := newCounted()
	writes := 0
	f.copyTo(t.Context(), func([]byte) bool { writes++; return false })
	require.Equal(t, 1, writes)
}

func TestFront_TheStatsStreamEndsExplicitlyBeforeItsDeadline(t *testing.T) {
	f, _, _ := newFront(t)
	ctx, cancel := context.WithTimeout(t.Context(), lastWords+3*time.Second)
	defer cancel()
	w := httptest.NewRecorder()
	f.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, pathStream, nil))
	require.NoError(t, ctx.Err())
	require.Equal(t, "text/event-stream", w.Header().Get("Content-Type"))
	require.True(t, strings.HasPrefix(w.Body.String(), "data: {"), w.Body)
	require.True(t, strings.HasSuffix(w.Body.String(), "\n\n"+api.Done) ||
		strings.HasSuffix(w.Body.String(), api.Ping+api.Done), w.Body)
}

// readStats begins to read the stats' stream, up to the end of its first event.
func readStats(t *testing.T, url string) (*http.Response, *bufio.Reader) {
	t.Helper()
	answer, err := http.Get(url + pathStream)
	require.NoError(t, err)
	t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != http.StatusOK {
		return answer, nil
	}
	body := bufio.NewReader(answer.Body)
	for range 2 {
		_, err = body.ReadString('\n')
		require.NoError(t, err)
	}
	return answer, body
}

func TestFront_DrainSendsReadersOfTheStatsAwayAtOnce(t *testing.T) {
	f, url, _ := newFront(t)
	_, body := readStats(t, url)
	f.Drain(time.Hour)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(rest), api.Done), "%s", rest)
}

func TestFront_ReadersOfTheStatsAreBounded(t *testing.T) {
	_, url, _ := newFront(t)
	var first *http.Response
	for n := 0; ; n++ {
		require.LessOrEqual(t, n, feedReaders/placesPart)
		answer, body := readStats(t, url)
		if body == nil {
			require.Equal(t, http.StatusTooManyRequests, answer.StatusCode)
			require.NotEmpty(t, answer.Header.Get("Retry-After"))
			break
		}
		if first == nil {
			first = answer
		}
	}
	first.Body.Close()
	require.Eventually(t, func() bool { _, body := readStats(t, url); return body != nil }, 30*time.Second,
		10*time.Millisecond)
}

func TestFront_ThePageIsTheSameForEverybodyAndMayRunNothingElse(t *testing.T) {
	f, url, _ := newFront(t)
	f.opts.StatsToken, f.opts.APIKeys = "the-stats-token", APIKeys{{1}}
	for _, path := range []string{"/pool", "/pool/page.js", "/pool/page.css", "/pool/uplot.js", "/pool/icon.svg"} {
		answer, text := do(t, http.MethodGet, url+path, "")
		require.Equal(t, 200, answer.StatusCode, path)
		require.NotEmpty(t, text)
		policy := answer.Header.Get("Content-Security-Policy")
		require.Contains(t, policy, "default-src 'none'; script-src 'self'; style-src 'self'")
		require.NotContains(t, policy, "unsafe")
		require.Equal(t, "nosniff", answer.Header.Get("X-Content-Type-Options"))
		require.Equal(t, "no-referrer", answer.Header.Get("Referrer-Policy"))
		answer, _ = do(t, http.MethodGet, url+path, "", "If-None-Match", answer.Header.Get("ETag"))
		require.Equal(t, 304, answer.StatusCode)
	}
	answer, _ := do(t, http.MethodGet, url+"/pool/another.js", "")
	require.Equal(t, 404, answer.StatusCode)
	answer, _ = do(t, http.MethodPost, url+"/pool", "")
	require.Equal(t, 405, answer.StatusCode)
}
