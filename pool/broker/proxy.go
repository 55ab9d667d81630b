package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
)

// maxBody bounds a call's body, in bytes: twice what the API takes.
const maxBody = 64 << 20

var errRedirect = errors.New("broker: the API redirects")

// exchange is a call that is passed on, and its body.
type exchange struct {
	io.ReadCloser
	grant      *Grant
	credential Credential
	streaming  finder
	cut        context.CancelCauseFunc // ends the call
	arrived    atomic.Bool             // all of the body is there, and with that the server's deadline for it is over
	over       bool                    // guarded by Grant.mu: the call has ended, though its body may still be read
}

// exchangeKey is where a context has its exchange.
type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

func (e *exchange) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.streaming.look(p[:n])
	if errors.Is(err, io.EOF) && !e.arrived.Swap(true) && !e.streaming.found {
		e.grant.whole(e)
	}
	return n, err
}

// errTooLong says that an answer that isn't streamed did not come in time.
var errTooLong = errors.New("broker: the API takes too long")

// pass passes a call of a process on to the API.
func (b *Broker) pass(g *Grant, w http.ResponseWriter, r *http.Request, credential Credential) {
	ctx, cut := context.WithCancelCause(r.Context())
	defer cut(nil)
	e := &exchange{ReadCloser: r.Body, grant: g, credential: credential, cut: cut, streaming: finder{mark: `"stream":true`}}
	defer g.leave(e)
	r = r.WithContext(context.WithValue(ctx, exchangeKey{}, e))
	r.Body = e
	b.proxy.ServeHTTP(w, r)
}

// finder looks for a mark in a text that comes in parts. Within a string of JSON the mark's quotes would be escaped.
type finder struct {
	mark  string
	end   []byte // of what has come
	found bool
}

func (f *finder) look(part []byte) {
	if f.found {
		return
	}
	edge := append(f.end, part[:min(len(part), len(f.mark)-1)]...)
	f.found = bytes.Contains(part, []byte(f.mark)) || bytes.Contains(edge, []byte(f.mark))
	if len(part) >= len(f.mark) {
		edge = part
	}
	f.end = append([]byte(nil), edge[max(0, len(edge)-len(f.mark)+1):]...)
}

// rewrite turns a process's call into the user's.
func (b *Broker) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(b.upstream)
	h := r.Out.Header
	for _, name := range []string{"Cookie", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"} {
		h.Del(name)
	}
	h.Set("Accept-Encoding", "identity") // the type of an error is read here as well
	exchangeOf(r.In).credential.authorize(h)
}

// answered looks at the API's answer before the process gets it.
func (b *Broker) answered(r *http.Response) error {
	if f := b.onAnswer.Load(); f != nil {
		(*f)(exchangeOf(r.Request).credential, judge(r))
	}
	r.Header.Del("Set-Cookie")
	r.Body = &answer{r.Body, exchangeOf(r.Request).grant}
	if r.StatusCode >= 300 && r.StatusCode < 400 {
		return errRedirect // a process must not carry anything to another host
	}
	return nil
}

// answer is the body of an answer of the API's. What comes of it is a sign of life.
type answer struct {
	io.ReadCloser
	grant *Grant
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if n > 0 {
		a.grant.heard()
	}
	return n, err
}

// failed answers a call that the API did not.
func (b *Broker) failed(w http.ResponseWriter, r *http.Request, err error) {
	gone := r.Context().Err() != nil
	switch {
	case errors.Is(context.Cause(r.Context()), errTooLong):
		b.log.Warn("the API takes too long", "limit", b.limits.single)
		writeError(w, http.StatusGatewayTimeout, "api_error", "the API takes too long")
	case errors.As(err, new(*http.MaxBytesError)):
		writeError(w, http.StatusRequestEntityTooLarge, "request_too_large", "the call is too large")
	case gone && !exchangeOf(r).arrived.Load(): // the server gives up a call when its deadline has passed, too
		writeError(w, http.StatusRequestTimeout, "invalid_request_error", "the call came too slowly")
	default:
		if !gone {
			b.log.Warn("the API could not be reached", "error", err)
		}
		writeError(w, http.StatusBadGateway, "api_error", "the API could not be reached")
	}
}

func writeError(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": message}})
}
