package broker

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	streamed = `{"model":"m","messages":[],"stream":true}`
	single   = `{"model":"m","messages":[{"content":"\"stream\":true"}],"stream":false}`
)

// send makes a call with a body as a process does, and returns what it is answered with.
func send(t testing.TB, g *Grant, body io.Reader) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL()+pathMessages, body)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+g.Secret())
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(text)
}

func TestGrant_CountsTheCallsThatArePassedOn(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	b := newBroker(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	g, other := bound(t, b, "token-1"), register(t, b)
	for _, status = range []int{200, 500, 429} {
		send(t, g, strings.NewReader(streamed))
	}
	require.EqualValues(t, 3, g.Passed())
	conn := dial(t, g)
	head(t, conn)
	requireAnswer(t, conn, http.StatusOK)
	_, err := call(t, t.Context(), g, http.MethodPost, pathMessages, "guessed")
	require.NoError(t, err)
	send(t, other, strings.NewReader(streamed))
	require.EqualValues(t, 3, g.Passed())
	require.Zero(t, other.Passed(), "what the broker answers itself")
}

// An answer that isn't streamed is all there or not at all, so nobody can tell by its bytes whether something comes.
func TestGrant_AnAnswerThatIsNotStreamedHasADeadlineOfItsOwn(t *testing.T) {
	t.Parallel()
	const limit = 200 * time.Millisecond
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	b := newBroker(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		select {
		case <-answer:
			fmt.Fprint(w, "fine")
		case <-r.Context().Done():
		}
	}, long, func(l *limits) { l.single = limit })
	g := bound(t, b, "token-1")
	response, text := send(t, g, strings.NewReader(single))
	<-asked
	require.Equal(t, http.StatusGatewayTimeout, response.StatusCode)
	require.Contains(t, text, "the API takes too long")
	require.Eventually(t, func() bool { return !g.AwaitsUnstreamed() }, patience, time.Millisecond)

	for body, awaits := range map[string]bool{streamed: false, single: true} {
		go func() {
			<-asked
			if awaits {
				assert.Eventually(t, g.AwaitsUnstreamed, patience, time.Millisecond)
			} else {
				time.Sleep(2 * limit) // the deadline is not for it
				assert.False(t, g.AwaitsUnstreamed())
			}
			answer <- struct{}{}
		}()
		response, text = send(t, g, strings.NewReader(body))
		require.Equal(t, http.StatusOK, response.StatusCode, text)
		require.Equal(t, "fine", text)
		require.Eventually(t, func() bool { return !g.AwaitsUnstreamed() }, patience, time.Millisecond,
			"the call ends after its answer")
	}

	reader, writer := io.Pipe()
	go func() {
		for _, part := range []string{single[:20], single[20:]} {
			_, _ = io.WriteString(writer, part)
			time.Sleep(limit) // the time that a body takes doesn't count
		}
		_ = writer.Close()
		<-asked
		answer <- struct{}{}
	}()
	response, text = send(t, g, reader)
	require.Equal(t, http.StatusOK, response.StatusCode, text)
}

// The end of a body may be read when its call is over: the API needn't read all of it.
func TestGrant_AwaitsNothingOfACallThatIsOver(t *testing.T) {
	t.Parallel()
	g := register(t, newBroker(t, nil))
	e := &exchange{ReadCloser: io.NopCloser(strings.NewReader(single)), grant: g}
	g.endExchange(e)
	_, err := io.ReadAll(e)
	require.NoError(t, err)
	require.False(t, g.AwaitsUnstreamed())
}

func TestGrant_WhatTheAPISaysIsASignOfLife(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	b := newBroker(t, func(w http.ResponseWriter, _ *http.Request) {
		for range more {
			fmt.Fprint(w, ": ping\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	})
	g := bound(t, b, "token-1")
	require.True(t, g.LastHeard().IsZero())
	over := make(chan struct{})
	go func() {
		defer close(over)
		send(t, g, strings.NewReader(streamed))
	}()
	defer func() {
		close(more)
		<-over
	}()
	var last time.Time
	for range 3 {
		more <- struct{}{}
		require.Eventually(t, func() bool { return g.LastHeard().After(last) }, patience, time.Millisecond)
		last = g.LastHeard()
	}
}

func TestBroker_WhatItServesIsOverOnceItHasClosed(t *testing.T) {
	b := newBroker(t, nil)
	var running, served atomic.Int64
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for range 100_000 {
				if !b.serve(func() { running.Add(1); runtime.Gosched(); served.Add(1); running.Add(-1) }) {
					return
				}
			}
		})
	}
	require.Eventually(t, func() bool { return served.Load() > 100 }, patience, time.Millisecond)
	b.Close()
	require.Zero(t, running.Load())
	over := served.Load()
	asking.Wait()
	require.False(t, b.serve(func() { served.Add(1) }))
	require.Equal(t, over, served.Load())
}
