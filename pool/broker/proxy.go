package broker

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"os"
	"time"
)

// maxBody bounds a call's body, in bytes: twice what the API takes.
const maxBody = 64 << 20

var (
	errRedirect = errors.New("broker: the API redirects")
	errSlow     = errors.New("broker: the call's body came too slowly")
)

// upload is a call's body. Once all of it is there its deadline holds no more: the answer may take its time.
type upload struct {
	io.ReadCloser
	arrived func()
}

func newUpload(w http.ResponseWriter, r *http.Request) *upload {
	u := &upload{r.Body, func() { _ = http.NewResponseController(w).SetReadDeadline(time.Time{}) }}
	if r.ContentLength == 0 {
		u.arrived() // nobody would read it
	}
	return u
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		u.arrived()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errSlow
	}
	return n, err
}

// contextKey is where a call's context has its Credential.
type contextKey struct{}

// rewrite turns a process's call into the user's.
func (b *Broker) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(b.upstream)
	h := r.Out.Header
	for _, name := range []string{"Cookie", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"} {
		h.Del(name)
	}
	h.Set("Accept-Encoding", "identity") // the type of an error is read here as well
	r.In.Context().Value(contextKey{}).(Credential).authorize(h)
}

// answered looks at the API's answer before the process gets it.
func (b *Broker) answered(r *http.Response) error {
	if f := b.onAnswer.Load(); f != nil {
		(*f)(r.Request.Context().Value(contextKey{}).(Credential), judge(r))
	}
	r.Header.Del("Set-Cookie")
	if r.StatusCode >= 300 && r.StatusCode < 400 {
		return errRedirect // a process must not carry anything to another host
	}
	return nil
}

// failed answers a call that the API did not.
func (b *Broker) failed(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil:
	case errors.As(err, new(*http.MaxBytesError)):
		writeError(w, http.StatusRequestEntityTooLarge, "request_too_large", "the call is too large")
	case errors.Is(err, errSlow):
		writeError(w, http.StatusRequestTimeout, "invalid_request_error", "the call came too slowly")
	default:
		b.log.Warn("the API could not be reached", "error", err)
		writeError(w, http.StatusBadGateway, "api_error", "the API could not be reached")
	}
}

func writeError(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": message}})
}
