package broker

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// host is where all ports are. It is not 127.0.0.1, from which connections to any loopback address come: whoever uses
// that one's ports up leaves this one's to the next process.
const host = "127.0.0.2"

// Grant is one process's access to the API: a port, and a secret that is good there and nowhere else. Its methods may
// be called concurrently.
type Grant struct {
	broker   *Broker
	secret   string
	listener net.Listener
	server   *http.Server
	life     context.Context
	end      context.CancelFunc

	lastByte atomic.Int64               // when something of an answer last came, in Unix nanoseconds; 0: never
	passed   atomic.Int64               // calls
	traced   atomic.Pointer[trace.Span] // what calls are a part of; nil: of nothing that is traced
	ended    chan struct{}              // closed when the process has ended
	endOnce  sync.Once
	failed   atomic.Bool // the last call of this turn, in a way after which the CLI tries again

	mu     sync.Mutex // guards the following
	open   int
	single map[*exchange]*time.Timer // the open calls whose answers aren't streamed, once their bodies are there
	binding
}

// Register opens a port and mints a secret for it. Until Bind its calls are answered by the Broker itself, without the
// API; see warmup.go. The caller has to revoke it.
func (b *Broker) Register() (*Grant, error) {
	listener, err := listenBut(b.avoid, func() (net.Listener, error) { return listen(b.limits) })
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	random := make([]byte, 32)
	rand.Read(random)
	g := &Grant{broker: b, secret: "cp-" + hex.EncodeToString(random), listener: listener,
		single: make(map[*exchange]*time.Timer), ended: make(chan struct{})}
	g.life, g.end = context.WithCancel(context.Background())
	g.server = &http.Server{
		Handler: g, BaseContext: func(net.Listener) context.Context { return g.life },
		ReadHeaderTimeout: b.limits.header, ReadTimeout: b.limits.body, IdleTimeout: b.limits.idle,
		MaxHeaderBytes: 64 << 10, ErrorLog: b.serverLog,
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.Join(ErrClosed, listener.Close())
	}
	b.grants[g] = struct{}{}
	b.serving.Go(func() { _ = g.server.Serve(listener) })
	return g, nil
}

// listenBut opens a port that isn't the one to be avoided: a process may connect to its port's number on any host.
func listenBut(avoid uint16, open func() (net.Listener, error)) (net.Listener, error) {
	listener, err := open()
	if err != nil || avoid == 0 || listener.Addr().(*net.TCPAddr).Port != int(avoid) {
		return listener, err
	}
	defer listener.Close() // once there is another one, so that it isn't the same again
	return open()
}

// listen opens a port that as many connections as the limits allow are accepted at.
func listen(most limits) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // it would take a second socket, and no process may use it
	listener, err := config.Listen(context.Background(), "tcp", host+":0")
	if err != nil {
		return nil, err
	}
	if err := setBacklog(listener.(*net.TCPListener), most.waiting); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return netutil.LimitListener(listener, most.connections), nil
}

// setBacklog says how many connections the kernel keeps that aren't accepted yet. Go asks for as many as there can be.
func setBacklog(listener *net.TCPListener, n int) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), n) })
	return errors.Join(controlErr, err)
}

// Revoke ends the process's access: its port is closed, its connections and calls end.
func (g *Grant) Revoke() {
	g.ProcessEnded()
	g.broker.mu.Lock()
	delete(g.broker.grants, g)
	g.broker.mu.Unlock()
	g.end()
	_ = g.listener.Close() // the server may not know of it yet
	_ = g.server.Close()
}

// ProcessEnded says that the process has ended. It may be called more than once.
func (g *Grant) ProcessEnded() { g.endOnce.Do(func() { close(g.ended) }) }

// hasEnded reports whether the process has ended, for which it waits a moment.
func (g *Grant) hasEnded(atMost time.Duration) bool {
	select {
	case <-g.ended:
		return true
	case <-time.After(atMost):
		return false
	}
}

// Secret is what the process has in place of a credential.
func (g *Grant) Secret() string { return g.secret }

// Port is the TCP port that the process has to be able to connect to.
func (g *Grant) Port() uint16 {
	return uint16(g.listener.Addr().(*net.TCPAddr).Port) // #nosec G115 -- a port
}

// URL is what the process gets as the API's base URL.
func (g *Grant) URL() string { return "http://" + g.listener.Addr().String() }

// Scrub takes the address of the process's port out of a text. Where it isn't in there, the result is the text itself.
func (g *Grant) Scrub(text []byte) []byte {
	address := g.listener.Addr().String()
	if !strings.Contains(string(text), address) {
		return text
	}
	return []byte(strings.NewReplacer("http://"+address, "the API", address, "the API").Replace(string(text)))
}

// Open is the number of calls under way.
func (g *Grant) Open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// Passed is the number of calls that were passed on so far.
func (g *Grant) Passed() int64 { return g.passed.Load() }

// BeginTurn makes calls that begin from now on a part of what is traced in ctx, if anything is, until end is called.
func (g *Grant) BeginTurn(ctx context.Context) (end func()) {
	g.failed.Store(false)
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return func() {}
	}
	traced := span // on the heap, and only here
	g.traced.Store(&traced)
	return func() { g.traced.CompareAndSwap(&traced, nil) }
}

// LastHeard is when something of an answer of the API's last came; the zero time if nothing has.
func (g *Grant) LastHeard() time.Time {
	if at := g.lastByte.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

func (g *Grant) noteHeard() { g.lastByte.Store(time.Now().UnixNano()) }

// AwaitsUnstreamed reports whether a call is open whose answer comes all at once: nothing is to be heard of it until
// then, and it has a deadline of its own.
func (g *Grant) AwaitsUnstreamed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.single) > 0
}

// markUnstreamed says that all of a call is there, and that its answer won't be streamed.
func (g *Grant) markUnstreamed(e *exchange) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.over || e.abandoned {
		return
	}
	g.single[e] = time.AfterFunc(g.broker.limits.single, func() { e.cut(errTooLong) })
}

// abandon says that the process has gone away from a call that goes on: it is none of its open ones.
func (g *Grant) abandon(e *exchange) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !e.over {
		e.abandoned = true
		g.open--
		g.endSingleLocked(e)
	}
}

// noteFailed says whether the process will see its last call as failed. One that it has gone away from is none of its.
func (g *Grant) noteFailed(e *exchange, failed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !e.abandoned {
		g.failed.Store(failed)
	}
}

// endExchange is the end of a call that was passed on.
func (g *Grant) endExchange(e *exchange) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e.over = true
	if e.abandoned {
		g.open++ // which done will take again
	}
	g.endSingleLocked(e)
}

func (g *Grant) endSingleLocked(e *exchange) {
	if timer := g.single[e]; timer != nil {
		timer.Stop()
		delete(g.single, e)
		g.noteHeard() // that it ended is a sign of life, too
	}
}

// begin counts a call in and says whose it is. That stays so: a call that began unbound never gets a credential.
func (g *Grant) begin() binding {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open++
	return g.binding
}

func (g *Grant) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
}

// isCaller reports whether a call comes from the process itself. How long it takes says nothing of the secret.
func (g *Grant) isCaller(r *http.Request) bool {
	secret, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return g.life.Err() == nil && subtle.ConstantTimeCompare([]byte(secret), []byte(g.secret)) == 1
}

// ServeHTTP takes one call of the process.
func (g *Grant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead && r.URL.Path == "/" {
		return // the CLI warms its connection up
	}
	if r.Method != http.MethodPost || r.URL.Path != pathMessages && r.URL.Path != pathCountTokens {
		writeError(w, http.StatusNotFound, "not_found_error", "this path is not passed on")
		return
	}
	if !g.isCaller(r) {
		writeError(w, http.StatusUnauthorized, "authentication_error", "unknown process")
		return
	}
	bound := g.begin()
	defer g.done()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if bound.credential == (Credential{}) {
		warmUp(w, r)
		return
	}
	if bound.rewriter != nil {
		change(r, bound.rewriter)
	}
	g.broker.pass(g, w, r, bound)
}
