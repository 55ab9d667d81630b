package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bill is a Bill that keeps what it is told.
type bill struct {
	mu    sync.Mutex // guards the following
	why   error      // no more calls are let through
	begun int
	subs  int // calls of subagents
	took  []*Usage
}

func (b *bill) Begin(_ context.Context, main bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why != nil {
		return b.why
	}
	b.begun++
	if !main {
		b.subs++
	}
	return nil
}

func (b *bill) End(_ bool, took *Usage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = append(b.took, took)
}

func (b *bill) told() []*Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*Usage(nil), b.took...)
}

const (
	start = "event: message_start\n" + `data: {"type":"message_start","message":{"id":"m","model":"claude-haiku-5-5",` +
		`"usage":{"input_tokens":100,"cache_creation_input_tokens":45,"cache_read_input_tokens":300,` +
		`"cache_creation":{"ephemeral_5m_input_tokens":40,"ephemeral_1h_input_tokens":5},"output_tokens":1}}}` + "\n\n"
	delta = "event: content_block_delta\n" + `data: {"type":"content_block_delta","delta":{"text":"event: message_delta ` +
		`\"usage\":{\"output_tokens\":99}"}}` + "\n\n"
	end = "event: message_delta\n" + `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},` +
		`"usage":{"input_tokens":100,"cache_creation_input_tokens":45,"output_tokens":20,` +
		`"server_tool_use":{"web_search_requests":2}}}` + "\n\nevent: message_stop\n" +
		`data: {"type":"message_stop"}` + "\n\n"
)

var whole = Usage{Model: "claude-haiku-5-5", Input: 100, Output: 20, CacheRead: 300, CacheWrite5m: 40, CacheWrite1h: 5,
	WebSearches: 2}

func TestGrant_TellsItsBillOfEachCallAndNobodyOfTheBrokersOwnAnswers(t *testing.T) {
	t.Parallel()
	status, answer := http.StatusOK, start+end
	b := newBroker(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	})
	g, own := register(t, b), &bill{}
	g.Charge(own)
	send(t, g, strings.NewReader(streamed))
	require.NoError(t, g.Bind(Credential{APIKey: "key"}))
	require.Zero(t, own.begun, "a call of nobody's")
	send(t, g, strings.NewReader(streamed))
	status = 529
	send(t, g, strings.NewReader(streamed))
	status, answer = 200, "data: nothing\n\n"
	send(t, g, strings.NewReader(streamed))
	require.Eventually(t, func() bool { return len(own.told()) == 3 }, patience, time.Millisecond)
	require.Equal(t, []*Usage{&whole, nil, nil}, own.told())
	call(t, t.Context(), g, http.MethodPost, pathCountTokens, g.Secret())
	require.Equal(t, 3, own.begun, "what costs nothing")
}

func TestGrant_ACallThatItsBillRefusesIsNotMade(t *testing.T) {
	t.Parallel()
	b := newBroker(t, func(http.ResponseWriter, *http.Request) { t.Error("the API must not be reached") })
	g := bound(t, b, "token-1")
	g.Charge(&bill{why: errors.New("all is spent")})
	response, text := send(t, g, strings.NewReader(streamed))
	require.Equal(t, http.StatusPaymentRequired, response.StatusCode)
	require.Equal(t, "false", response.Header.Get("X-Should-Retry"))
	require.JSONEq(t, `{"type":"error","error":{"type":"billing_error","message":"all is spent"}}`, text)
	require.Zero(t, g.Passed())
}

// A process that has its answer may make the next call at once, of which the bill has to know what is spent.
func TestGrant_TellsItsBillBeforeTheProcessHasAllOfTheAnswer(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, start+end)
		_ = http.NewResponseController(w).Flush()
		<-goOn
	}, long)
	g, own := bound(t, b, "token-1"), &bill{}
	g.Charge(own)
	response, err := ask(t, g)
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.ReadFull(response.Body, make([]byte, len(start+end)))
	require.NoError(t, err)
	require.Equal(t, []*Usage{&whole}, own.told())
	close(goOn)
}

// leave has a process end in the middle of a call, when its answer has begun, or before.
func leave(t *testing.T, g *Grant, begun <-chan struct{}, reads bool) {
	defer g.ProcessEnded() // a moment after its connection
	giveUp(t, g, begun, reads)
}

// giveUp makes a call and hangs up when its answer has begun, or before.
func giveUp(t *testing.T, g *Grant, begun <-chan struct{}, reads bool) {
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL()+pathMessages, strings.NewReader(streamed))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+g.Secret())
	if !reads {
		go func() {
			<-begun
			hangUp()
		}()
	}
	response, err := http.DefaultClient.Do(r)
	if !reads {
		require.Error(t, err)
		return
	}
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.ReadFull(response.Body, make([]byte, len(start)))
	require.NoError(t, err)
}

func TestGrant_AnAnswerIsReadToItsEndWhenItsProcessHasGone(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}, 1), make(chan struct{})
	headers := true
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		if headers {
			_, _ = io.WriteString(w, start)
			_ = http.NewResponseController(w).Flush()
		}
		begun <- struct{}{}
		<-goOn
		if !headers {
			_, _ = io.WriteString(w, start)
		}
		_, _ = io.WriteString(w, delta)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, end)
	}, long)
	for _, headers = range []bool{true, false} {
		g, own := bound(t, b, "token-1"), &bill{}
		g.Charge(own)
		leave(t, g, begun, headers)
		if headers {
			<-begun
		}
		require.Eventually(t, func() bool { return g.Open() == 0 }, patience, time.Millisecond, "it isn't its call any more")
		g.Revoke()
		require.Empty(t, own.told())
		goOn <- struct{}{}
		require.Eventually(t, func() bool { return len(own.told()) == 1 }, patience, time.Millisecond)
		require.Equal(t, []*Usage{&whole}, own.told(), headers)
	}
	require.Zero(t, b.unbilled.Load())
}

// unending begins an answer, and tells when it has and when its call has ended, which it doesn't end before.
func unending(begun, gone chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, start)
		_ = http.NewResponseController(w).Flush()
		begun <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	}
}

// What a user has interrupted is to cost no more.
func TestGrant_ACallThatALivingProcessGivesUpEndsAtTheAPI(t *testing.T) {
	t.Parallel()
	begun, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	b := newBroker(t, unending(begun, gone), long, func(l *limits) { l.goneFor, l.ending = time.Hour, time.Millisecond })
	g, own := bound(t, b, "token-1"), &bill{}
	g.Charge(own)
	giveUp(t, g, begun, true)
	<-gone
	require.Eventually(t, func() bool { return len(own.told()) == 1 }, patience, time.Millisecond)
	require.EqualValues(t, 100, own.told()[0].Input, "as far as it went")
}

func TestGrant_AnAnswerIsReadOnForSoLongAndNoLonger(t *testing.T) {
	t.Parallel()
	const limit = 100 * time.Millisecond
	begun, gone := make(chan struct{}, 2), make(chan struct{}, 1)
	b := newBroker(t, unending(begun, gone), long, func(l *limits) { l.goneFor = limit })
	g, own := bound(t, b, "token-1"), &bill{}
	g.Charge(own)
	leave(t, g, begun, true)
	<-gone
	require.Eventually(t, func() bool { return len(own.told()) == 1 }, patience, time.Millisecond)
	require.EqualValues(t, 100, own.told()[0].Input, "as far as it went")

	b.limits.goneFor = time.Hour
	leave(t, g, begun, true)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	b.Finish(ctx)
	require.Len(t, own.told(), 2, "before it returns")
	<-gone
}

func TestGrant_OnlyAFewCallsOfAUserGoOnWithoutTheirProcess(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}, 1), make(chan struct{})
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, start)
		_ = http.NewResponseController(w).Flush()
		begun <- struct{}{}
		select {
		case <-goOn:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, end)
	}, long)
	own := &bill{}
	ends := func(n int) {
		require.Eventually(t, func() bool { return len(own.told()) == n }, patience, time.Millisecond)
	}
	for range mostGoingOn + 1 { // each of another process
		g := bound(t, b, "token-1")
		g.Charge(own)
		leave(t, g, begun, true)
		<-begun
		require.Eventually(t, func() bool { return g.Open() == 0 }, patience, time.Millisecond)
	}
	ends(1)
	require.EqualValues(t, 1, own.told()[0].Output, "as far as it went")
	g := bound(t, b, "token-2")
	g.Charge(own)
	leave(t, g, begun, true)
	<-begun
	close(goOn)
	ends(mostGoingOn + 2)
	require.Equal(t, &whole, own.told()[mostGoingOn+1])
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.goingOn) == 0
	}, patience, time.Millisecond)
}

func TestGrant_ACallThatGoesOnIsNoneOfItsProcess(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}, 1), make(chan struct{})
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		begun <- struct{}{}
		<-goOn
		w.WriteHeader(http.StatusInternalServerError)
	}, long)
	g, own := bound(t, b, "token-1"), &bill{}
	g.Charge(own)
	ctx, hangUp := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL()+pathMessages, strings.NewReader(single))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+g.Secret())
	go func() {
		<-begun
		hangUp()
	}()
	_, err = http.DefaultClient.Do(r)
	require.Error(t, err)
	require.Eventually(t, func() bool { return g.Open() == 0 }, patience, time.Millisecond)
	require.False(t, g.AwaitsUnstreamed())
	close(goOn)
	require.Eventually(t, func() bool { return len(own.told()) == 1 }, patience, time.Millisecond)
	require.False(t, g.failed.Load())
}

func TestGrant_TellsSubagentsFromTheMainConversation(t *testing.T) {
	t.Parallel()
	b := newBroker(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	g, own := bound(t, b, "token-1"), &bill{}
	g.Charge(own)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL()+pathMessages, strings.NewReader(single))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+g.Secret())
	r.Header.Set("X-Claude-Code-Agent-Id", "a")
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, 1, own.subs)
}
