package server_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// client is a request's client, as the server's ResponseWriter. It gets what is flushed.
type client struct {
	t      testing.TB
	cancel context.CancelFunc // of its request
	header http.Header
	ended  chan struct{} // closed when the handler has returned

	mu       sync.Mutex    // guards the following
	changed  chan struct{} // closed, and replaced, when any of it has changed
	status   int           // that was written
	seen     int           // that the client has got
	sent     http.Header
	unsent   bytes.Buffer
	got      bytes.Buffer
	stuck    bool // it doesn't read
	hasty    bool // a deadline has passed as soon as it is set
	deadline time.Time
	broken   bool // a write has failed, and so do all others
	over     bool // the ResponseWriter must not be touched any more
}

func newClient(t testing.TB) *client {
	return &client{t: t, ended: make(chan struct{}), changed: make(chan struct{}), header: make(http.Header)}
}

func (c *client) changeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// change has f change what is guarded.
func (c *client) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.changeLocked()
}

func (c *client) stall()       { c.change(func() { c.stuck = true }) }
func (c *client) read()        { c.change(func() { c.stuck = false }) }
func (c *client) touchLocked() { assert.False(c.t, c.over, "the response is over") }

// flushLocked has the client get what was written, with the headers before it.
func (c *client) flushLocked() {
	c.seen = c.status
	_, _ = c.unsent.WriteTo(&c.got)
}

func (c *client) expired() bool {
	return !c.deadline.IsZero() && (c.hasty || !time.Now().Before(c.deadline))
}

// hangUp ends the connection. What is sent from here on is lost.
func (c *client) hangUp() {
	c.change(func() { c.broken = true })
	c.cancel()
}

func (c *client) Header() http.Header { return c.header }

func (c *client) WriteHeader(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touchLocked()
	assert.Zero(c.t, c.status, "one status")
	c.statusLocked(status)
}

// statusLocked is the time by which headers have to be set.
func (c *client) statusLocked(status int) { c.status, c.sent = status, c.header.Clone() }

// Write takes as long as the client takes to read, or until the deadline.
func (c *client) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touchLocked()
	for c.stuck && !c.broken && !c.expired() {
		c.waitLocked()
	}
	if c.broken = c.broken || c.expired(); c.broken {
		return 0, os.ErrDeadlineExceeded
	}
	if c.status == 0 {
		c.statusLocked(http.StatusOK)
	}
	return c.unsent.Write(b)
}

// waitLocked waits for a change or the deadline, without the lock.
func (c *client) waitLocked() {
	changed := c.changed
	var expired <-chan time.Time
	if !c.deadline.IsZero() {
		timer := time.NewTimer(time.Until(c.deadline))
		defer timer.Stop()
		expired = timer.C
	}
	c.mu.Unlock()
	select {
	case <-changed:
	case <-expired:
	}
	c.mu.Lock()
}

func (c *client) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touchLocked()
	c.flushLocked()
}

func (c *client) SetWriteDeadline(deadline time.Time) error {
	c.change(func() {
		c.touchLocked()
		c.deadline = deadline
	})
	return nil
}

// finish is what net/http does when a handler has returned.
func (c *client) finish() {
	c.change(func() {
		c.flushLocked()
		c.over = true
	})
	close(c.ended)
}

// due is how long the server may write yet; 0 is for as long as it likes.
func (c *client) due() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline.IsZero() {
		return 0
	}
	return time.Until(c.deadline)
}

// soFar is what the client has read.
func (c *client) soFar() reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	return parse(c.seen, c.sent, c.got.String())
}

// whole waits for the end.
func (c *client) whole() reply {
	<-c.ended
	return c.soFar()
}

func (c *client) isOver() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// reply is what a client has of its answer.
type reply struct {
	status  int
	header  http.Header
	body    string
	events  []string // their data, without the end mark
	ids     []string
	pings   int
	receipt gjson.Result
	done    bool
}

var block = regexp.MustCompile(`^(?:id: (\S+)\n)?data: (.*)$`)

func parse(status int, header http.Header, body string) reply {
	r := reply{status: status, header: header, body: body}
	for part := range strings.SplitSeq(body, "\n\n") {
		for strings.HasPrefix(part, ":") {
			var comment string
			comment, part, _ = strings.Cut(part, "\n")
			if receipt, is := strings.CutPrefix(comment, ": receipt "); is {
				r.receipt = gjson.Parse(receipt)
			} else {
				r.pings++
			}
		}
		switch event := block.FindStringSubmatch(part); {
		case event == nil:
		case event[2] == "[DONE]":
			r.done = true
		default:
			r.ids, r.events = append(r.ids, event[1]), append(r.events, event[2])
		}
	}
	return r
}

// refused requires that the answer is an error that no stream was begun for, and returns what it says.
func (r reply) refused(t testing.TB, status int) (message string) {
	t.Helper()
	require.Equal(t, status, r.status, r.body)
	require.Equal(t, "application/json", r.header.Get("Content-Type"))
	require.Equal(t, "error", gjson.Get(r.body, "type").Str, r.body)
	require.NotContains(t, r.body, "data:")
	return gjson.Get(r.body, "error.message").Str
}

// failed requires that a stream ended with an error after these events, and returns what it says.
func (r reply) failed(t testing.TB, events ...string) (message string) {
	t.Helper()
	require.Equal(t, http.StatusOK, r.status)
	require.True(t, r.done, r.body)
	require.Len(t, r.events, len(events)+1, r.body)
	require.Equal(t, events, r.events[:len(events)])
	return gjson.Get(r.events[len(events)], "error.message").Str
}

// answered requires that these are all events of a stream that ended well.
func (r reply) answered(t testing.TB, events ...string) {
	t.Helper()
	require.Equal(t, http.StatusOK, r.status, r.body)
	require.True(t, r.done, r.body)
	require.Equal(t, events, r.events, r.body)
}
