package broker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
)

const (
	// maxBody bounds a call's body, in bytes: twice what the API takes.
	maxBody = 64 << 20
	// longestModel is how much is kept of what stands for a model, in bytes.
	longestModel = 100
)

// Members of calls and answers that are looked for.
const (
	memberModel  = "model"
	memberStream = "stream"
	memberUsage  = "usage"
)

var errRedirect = errors.New("broker: the API redirects")

// exchange is a call that is passed on, and its body.
type exchange struct {
	io.ReadCloser
	grant      *Grant
	credential Credential
	asked      picker
	left       int64                   // of the body; negative where its length isn't known
	cut        context.CancelCauseFunc // ends the call
	stop       func() bool             // ends the watching of the process's end
	bill       Bill                    // nil: nobody is told of the call
	isMain     bool                    // it isn't a subagent's
	billed     atomic.Bool             // the bill has been told of its end
	answer     *answer                 // nil until the API answers
	arrived    atomic.Bool             // all of the body is there, and with that the server's deadline for it is over
	model      atomic.Pointer[string]  // nil until the body has told it
	isRetry    bool                    // the process's last call failed
	abandoned  bool                    // guarded by Grant.mu: the process has gone, and doesn't count the call
	over       bool                    // guarded by Grant.mu: the call has ended, though its body may still be read
}

// exchangeKey is where a context has its exchange.
type exchangeKey struct{}

// IsRetry reports whether a call, by its context, is one after another of the same process that had failed. The CLI
// doesn't say so itself.
func IsRetry(ctx context.Context) bool {
	e, ok := ctx.Value(exchangeKey{}).(*exchange)
	return ok && e.isRetry
}

// ModelOf is the model that a process's call is for, by its context, as far as its body has told so far.
func ModelOf(ctx context.Context) string {
	e, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok || e.model.Load() == nil {
		return ""
	}
	return *e.model.Load()
}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

func (e *exchange) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.asked.look(p[:n])
	e.left -= int64(n)
	if model := e.asked.get(memberModel).Str; model != "" && e.model.Load() == nil {
		model = model[:min(len(model), longestModel)]
		e.model.Store(&model)
	}
	if (errors.Is(err, io.EOF) || e.left == 0) && !e.arrived.Swap(true) && !e.asked.get(memberStream).Bool() {
		e.grant.markUnstreamed(e)
	}
	return n, err
}

// errGivenUp says that a process which lives on has given a call up.
var errGivenUp = errors.New("broker: the process has given the call up")

// errGone says that an answer that no process waited for any more did not come to its end in time.
var errGone = errors.New("broker: the process has gone")

// errTooLong says that an answer that isn't streamed did not come in time.
var errTooLong = errors.New("broker: the API takes too long")

// pass passes a call of a process on to the API.
func (b *Broker) pass(g *Grant, w http.ResponseWriter, r *http.Request, bound binding) {
	e := &exchange{ReadCloser: r.Body, grant: g, credential: bound.credential, left: r.ContentLength,
		asked: picker{names: []string{memberModel, memberStream}}}
	if !e.beginBill(w, r, bound.bill) {
		return
	}
	g.passed.Add(1)
	e.isRetry = g.failed.Swap(false)
	ctx := b.outlive(r, e)
	defer e.leave()
	defer g.endExchange(e)
	if span := g.traced.Load(); span != nil {
		ctx = trace.ContextWithSpan(ctx, *span)
	}
	r = r.WithContext(context.WithValue(ctx, exchangeKey{}, e))
	r.Body = e
	b.proxy.ServeHTTP(w, r)
}

// leave ends a call whose process has its answer, or has gone: then the answer may still be read.
func (e *exchange) leave() {
	if e.answer != nil && e.answer.isReadOn {
		return
	}
	e.stop()
	e.cut(nil)
	e.endBill(nil)
}

// rewrite turns a process's call into the user's.
func (b *Broker) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(b.upstream)
	h := r.Out.Header
	for _, name := range []string{"Cookie", "Traceparent", "Tracestate", "X-Forwarded-For", "X-Forwarded-Host",
		"X-Forwarded-Proto", "Forwarded"} {
		h.Del(name)
	}
	h.Set("Accept-Encoding", "identity") // the type of an error is read here as well
	exchangeOf(r.In).credential.authorize(h)
}

// checkAnswer looks at the API's answer before the process gets it.
func (b *Broker) checkAnswer(r *http.Response) error {
	e := exchangeOf(r.Request)
	if f := b.onAnswer.Load(); f != nil {
		(*f)(e.credential, judge(r))
	}
	if r.StatusCode == http.StatusTooManyRequests || r.StatusCode >= 500 {
		e.grant.noteFailed(e, true)
	}
	r.Header.Del("Set-Cookie")
	isStream := strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream")
	e.answer = &answer{ReadCloser: r.Body, exchange: e, isGood: r.StatusCode < 300, meter: newMeter(isStream)}
	r.Body = e.answer
	if r.StatusCode >= 300 && r.StatusCode < 400 {
		return errRedirect // a process must not carry anything to another host
	}
	return nil
}

// answerError answers a call that the API did not.
func (b *Broker) answerError(w http.ResponseWriter, r *http.Request, err error) {
	gone := r.Context().Err() != nil
	e := exchangeOf(r)
	e.grant.noteFailed(e, !gone)
	switch {
	case errors.Is(context.Cause(r.Context()), errTooLong):
		b.log.Warn("the API takes too long", "limit", b.limits.single)
		writeError(w, http.StatusGatewayTimeout, "api_error", "the API takes too long")
	case errors.As(err, new(*http.MaxBytesError)):
		writeError(w, http.StatusRequestEntityTooLarge, "request_too_large", "the call is too large")
	case gone && !e.arrived.Load(): // the server gives up a call when its deadline has passed, too
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
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "error", "error": map[string]string{"type": kind,
		"message": message}})
}
