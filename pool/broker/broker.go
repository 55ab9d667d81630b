// Package broker is the loopback proxy between the CLI processes and the Messages API. A process knows nothing but a
// random secret; the broker knows whose process that is and puts the user's credential in its place. The credential is
// in no process's arguments, environment, files or memory.
package broker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

var (
	// ErrBound says that a Grant already stands for another credential.
	ErrBound = errors.New("broker: bound to another credential")
	// ErrBusy says that a Grant can't be bound while a call is under way that began when it was nobody's.
	ErrBusy = errors.New("broker: an unbound call is under way")
)

// maxBody bounds a call's body, in bytes: twice what the API takes.
const maxBody = 64 << 20

// oauthBeta is the beta flag that goes with OAuth tokens and is refused with API keys.
const oauthBeta = "oauth-2025-04-20"

// Options are a Broker's settings.
type Options struct {
	Upstream *url.URL // the API's base URL
	Logger   *slog.Logger
}

// Broker listens on a loopback port of its own. Its methods may be called concurrently.
type Broker struct {
	upstream *url.URL
	log      *slog.Logger
	address  string
	port     uint16
	server   *http.Server
	proxy    *httputil.ReverseProxy
	serving  chan struct{}

	mu     sync.Mutex // guards grants
	grants map[[32]byte]*Grant
}

// New returns a serving Broker. The caller has to close it.
func New(opts Options) (*Broker, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	b := &Broker{
		upstream: opts.Upstream, log: opts.Logger,
		address: listener.Addr().String(), port: uint16(listener.Addr().(*net.TCPAddr).Port), // #nosec G115 -- a port
		serving: make(chan struct{}), grants: make(map[[32]byte]*Grant),
	}
	b.proxy = &httputil.ReverseProxy{
		Rewrite: b.rewrite, FlushInterval: -1, ModifyResponse: clean, ErrorHandler: b.failed,
		ErrorLog: slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			ForceAttemptHTTP2: true, DisableCompression: true,
			MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		},
	}
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug)}
	go func() {
		defer close(b.serving)
		_ = b.server.Serve(listener)
	}()
	return b, nil
}

// URL is what a process gets as the API's base URL.
func (b *Broker) URL() string { return "http://" + b.address }

// Port is the TCP port that processes have to be able to connect to.
func (b *Broker) Port() uint16 { return b.port }

// Close ends all calls and returns when nothing serves any more.
func (b *Broker) Close() {
	_ = b.server.Close()
	<-b.serving
	b.proxy.Transport.(*http.Transport).CloseIdleConnections()
}

// Scrub takes the broker's address out of a text. Where it isn't in there, the result is the text itself.
func (b *Broker) Scrub(text []byte) []byte {
	if !strings.Contains(string(text), b.address) {
		return text
	}
	clean := strings.NewReplacer("http://"+b.address, "the API", b.address, "the API").Replace(string(text))
	return []byte(clean)
}

// Credential is what a user comes with: one of the two.
type Credential struct{ OAuthToken, APIKey string }

// String keeps a credential out of logs and errors.
func (Credential) String() string { return "[credential]" }

// GoString does so too.
func (Credential) GoString() string { return "[credential]" }

// LogValue does so too.
func (Credential) LogValue() slog.Value { return slog.StringValue("[credential]") }

// Grant is one process's access to the API. Its methods may be called concurrently.
type Grant struct {
	broker *Broker
	secret string
	life   context.Context
	end    context.CancelFunc

	mu         sync.Mutex // guards the following
	open       int
	credential Credential
}

// Register mints a secret. Until Bind its calls are answered by the Broker itself, without the API; see warmup.go.
func (b *Broker) Register() *Grant {
	random := make([]byte, 32)
	rand.Read(random)
	g := &Grant{broker: b, secret: "cp-" + hex.EncodeToString(random)}
	g.life, g.end = context.WithCancel(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grants[sha256.Sum256([]byte(g.secret))] = g
	return g
}

// Secret is what the process has in place of a credential.
func (g *Grant) Secret() string { return g.secret }

// Bind makes the calls that begin from now on those of the credential's owner. The error is ErrBound or ErrBusy.
func (g *Grant) Bind(c Credential) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.credential == c {
		return nil
	}
	if g.credential != (Credential{}) {
		return ErrBound
	}
	if g.open > 0 {
		return ErrBusy
	}
	g.credential = c
	return nil
}

// Rebind makes the calls that begin from now on those of another credential of the same person. The error is ErrBound if
// the Grant stands for neither.
func (g *Grant) Rebind(from, to Credential) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.credential != from && g.credential != to {
		return ErrBound
	}
	g.credential = to
	return nil
}

// Open is the number of calls under way.
func (g *Grant) Open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// begin counts a call in and says whose it is. That stays so: a call that began unbound never gets a credential.
func (g *Grant) begin() Credential {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open++
	return g.credential
}

func (g *Grant) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
}

// Revoke ends the secret and the calls that were begun with it.
func (g *Grant) Revoke() {
	g.broker.mu.Lock()
	delete(g.broker.grants, sha256.Sum256([]byte(g.secret)))
	g.broker.mu.Unlock()
	g.end()
}

type contextKey struct{}

// ServeHTTP takes one call of a process.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead && r.URL.Path == "/" {
		return // the CLI warms its connection up
	}
	if r.Method != http.MethodPost || r.URL.Path != "/v1/messages" && r.URL.Path != "/v1/messages/count_tokens" {
		writeError(w, http.StatusNotFound, "not_found_error", "this path is not passed on")
		return
	}
	secret, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	// Found by its digest, so that how long the search takes says nothing of the secrets.
	b.mu.Lock()
	g := b.grants[sha256.Sum256([]byte(secret))]
	b.mu.Unlock()
	if g == nil {
		writeError(w, http.StatusUnauthorized, "authentication_error", "unknown process")
		return
	}
	credential := g.begin()
	defer g.done()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if credential == (Credential{}) {
		warmUp(w, r)
		return
	}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), contextKey{}, credential))
	defer cancel()
	defer context.AfterFunc(g.life, cancel)()
	b.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// rewrite turns a process's call into the user's.
func (b *Broker) rewrite(r *httputil.ProxyRequest) {
	credential := r.In.Context().Value(contextKey{}).(Credential)
	r.SetURL(b.upstream)
	h := r.Out.Header
	for _, name := range []string{"Authorization", "X-Api-Key", "Cookie", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"} {
		h.Del(name)
	}
	if credential.OAuthToken != "" {
		h.Set("Authorization", "Bearer "+credential.OAuthToken)
		return
	}
	h.Set("X-Api-Key", credential.APIKey)
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

var errRedirect = errors.New("broker: the API redirects")

// clean keeps from the process what is none of its business.
func clean(r *http.Response) error {
	r.Header.Del("Set-Cookie")
	if r.StatusCode >= 300 && r.StatusCode < 400 {
		return errRedirect // a process must not carry anything to another host
	}
	return nil
}

// failed answers a call that the API did not.
func (b *Broker) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	if errors.As(err, new(*http.MaxBytesError)) {
		writeError(w, http.StatusRequestEntityTooLarge, "request_too_large", "the call is too large")
		return
	}
	b.log.Warn("the API could not be reached", "error", err)
	writeError(w, http.StatusBadGateway, "api_error", "the API could not be reached")
}

func writeError(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": message}})
}
