package broker

import (
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
	credential Credential
	arrived    atomic.Bool // all of the body is there, and with that the server's deadline for it is over
}

// exchangeKey is where a context has its exchange.
type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

func (e *exchange) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		e.arrived.Store(true)
	}
	return n, err
}

// pass passes a call on to the API.
func (b *Broker) pass(w http.ResponseWriter, r *http.Request, credential Credential) {
	e := &exchange{ReadCloser: r.Body, credential: credential}
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e))
	r.Body = e
	b.proxy.ServeHTTP(w, r)
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
	if r.StatusCode >= 300 && r.StatusCode < 400 {
		return errRedirect // a process must not carry anything to another host
	}
	return nil
}

// failed answers a call that the API did not.
func (b *Broker) failed(w http.ResponseWriter, r *http.Request, err error) {
	gone := r.Context().Err() != nil
	switch {
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
