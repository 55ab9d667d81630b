// Package broker is the loopback proxy between the CLI processes and the Messages API. Each process has a port of its
// own there and knows nothing but a random secret; the broker puts the credential of its user in the secret's place.
// The credential is in no process's arguments, environment, files or memory.
package broker

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

var (
	// ErrBound says that a Grant already stands for another credential.
	ErrBound = errors.New("broker: bound to another credential")
	// ErrBusy says that a Grant can't be bound while a call is under way that began when it was nobody's.
	ErrBusy = errors.New("broker: an unbound call is under way")
	// ErrTooManyProofs says that too many requests to the API about credentials are under way.
	ErrTooManyProofs = errors.New("broker: too many credentials are being proven")
	// ErrClosed says that the Broker takes no more processes.
	ErrClosed = errors.New("broker: closed")
)

// limits bound what a process can have the broker do.
type limits struct {
	connections int           // of one process that are served at a time
	waiting     int           // further ones that the kernel keeps; beyond, a process waits for being connected
	header      time.Duration // from a connection's begin to the end of a call's header
	body        time.Duration // from a call's begin to the end of its body
	idle        time.Duration // between two calls
	single      time.Duration // from a call's end to the end of an answer that isn't streamed
	goneFor     time.Duration // that a call goes on whose process has gone
	ending      time.Duration // until it is known that a process has ended, after its connections have
	proofs      int64         // calls of Prove at a time
	crowd       time.Duration // that a further one waits
	proof       time.Duration // that one of them may take
	sends       int64         // calls of Send at a time
	send        time.Duration // that one of them may take
}

// production are the limits in use. A process that has as many connections as are served finds the next one waiting
// until one of them ends: a CLI of more than 16 subagents is slower by that, where a connection closed would be an
// error to it. Only few may wait, as the kernel keeps up to 128 KiB of what is sent on each, which counts as nobody's
// memory. A body has the time that 64 MiB take at 5 Mbit/s towards the API. Connections are idle for longer than
// processes are, so that none ends just as its process uses it again.
var production = limits{
	connections: 16, waiting: 16, header: 10 * time.Second, body: 2 * time.Minute, idle: 10 * time.Minute,
	single: 10 * time.Minute, goneFor: time.Minute, ending: 200 * time.Millisecond,
	proofs: 16, crowd: 2500 * time.Millisecond, proof: 2500 * time.Millisecond,
	sends: 32, send: 45 * time.Second,
}

// Options are a Broker's settings.
type Options struct {
	Upstream *url.URL // the API's base URL
	Logger   *slog.Logger
	// Measure puts something around the transport of all calls; nil is nothing.
	Measure func(http.RoundTripper) http.RoundTripper
	// Avoid is a port that no process may get to, on whatever host, as something else is there; 0 is none.
	Avoid uint16
}

// Broker serves processes, each by its Grant. Its methods may be called concurrently.
type Broker struct {
	upstream  *url.URL
	log       *slog.Logger
	serverLog *log.Logger
	limits    limits
	avoid     uint16
	transport *http.Transport
	calls     http.RoundTripper // the same, measured where anything is
	proxy     *httputil.ReverseProxy
	proving   *semaphore.Weighted
	sending   *semaphore.Weighted
	onAnswer  atomic.Pointer[func(Credential, Verdict)]
	serving   sync.WaitGroup
	reading   *semaphore.Weighted // answers that no process waits for
	unbilled  atomic.Int64        // calls whose bill hasn't been told of their end
	finishing context.Context     // done when those without a process are to end
	endCalls  context.CancelFunc

	mu     sync.Mutex // guards the following
	closed bool
	grants map[*Grant]struct{}
	// goingOn is how many calls there are of which the process has gone.
	goingOn map[Credential]int
}

// New returns a Broker. The caller has to close it.
func New(opts Options) *Broker {
	b := &Broker{
		upstream: opts.Upstream, log: opts.Logger, limits: production, avoid: opts.Avoid,
		grants: make(map[*Grant]struct{}), goingOn: make(map[Credential]int),
		serverLog: slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
		proving:   semaphore.NewWeighted(production.proofs), sending: semaphore.NewWeighted(production.sends),
		reading: semaphore.NewWeighted(mostReading),
		transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			ForceAttemptHTTP2: true, DisableCompression: true,
			// All users' calls share a few connections: one whose network is gone must not be kept until TCP gives it up.
			HTTP2:               &http.HTTP2Config{SendPingTimeout: pingTimeout, PingTimeout: pingTimeout},
			MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		},
	}
	if b.calls = b.transport; opts.Measure != nil {
		b.calls = opts.Measure(b.transport)
	}
	b.finishing, b.endCalls = context.WithCancel(context.Background()) // #nosec G118 -- Close calls it
	b.proxy = &httputil.ReverseProxy{
		Rewrite: b.rewrite, FlushInterval: -1, ModifyResponse: b.checkAnswer, ErrorHandler: b.answerError,
		ErrorLog: b.serverLog, Transport: b.calls,
	}
	return b
}

// serve runs f beside others, and reports whether it does: not once the Broker closes.
func (b *Broker) serve(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.serving.Go(f)
	}
	return !b.closed
}

// Close revokes all grants and returns when nothing serves any more.
func (b *Broker) Close() {
	b.mu.Lock()
	b.closed = true
	grants := slices.Collect(maps.Keys(b.grants))
	b.mu.Unlock()
	for _, g := range grants {
		g.Revoke()
	}
	b.endCalls()
	b.serving.Wait()
	b.transport.CloseIdleConnections()
}

// Credential is what a user comes with: one of the two.
type Credential struct{ OAuthToken, APIKey string }

// String keeps a credential out of logs and errors.
func (Credential) String() string { return "[credential]" }

// GoString does so too.
func (Credential) GoString() string { return "[credential]" }

// LogValue does so too.
func (Credential) LogValue() slog.Value { return slog.StringValue("[credential]") }

// pingTimeout is how long a connection to the API may be silent before it is asked whether it lives, and then until it
// counts as gone.
const pingTimeout = 15 * time.Second

// oauthBeta is the beta flag that goes with OAuth tokens and is refused with API keys.
const oauthBeta = "oauth-2025-04-20"

// authorize puts the credential into a call's header, in place of whatever stands there.
func (c Credential) authorize(h http.Header) {
	h.Del("Authorization")
	h.Del("X-Api-Key")
	if c.OAuthToken != "" {
		h.Set("Authorization", "Bearer "+c.OAuthToken)
		return
	}
	h.Set("X-Api-Key", c.APIKey)
	var betas []string
	for _, value := range h.Values("Anthropic-Beta") {
		for beta := range strings.SplitSeq(value, ",") {
			if beta = strings.TrimSpace(beta); beta != oauthBeta && beta != "" {
				betas = append(betas, beta)
			}
		}
	}
	h.Del("Anthropic-Beta")
	if len(betas) > 0 {
		h.Set("Anthropic-Beta", strings.Join(betas, ","))
	}
}
