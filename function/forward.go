package function

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"claudepool/infra/hop"
	"claudepool/infra/logging"
	"claudepool/infra/telemetry"
	"claudepool/pool/api"
	"claudepool/router"
)

const (
	// patience is how long a request whose turn has not begun is tried again: above a lease and a drain.
	patience     = 15 * time.Second
	firstWait    = 50 * time.Millisecond
	longestWait  = 500 * time.Millisecond
	maxErrorBody = 64 << 10
	maxAnswer    = 1 << 20 // that is no stream
)

// call is one request on its way to its instance.
type call struct {
	path   string
	id     string // the client's, or made for it: for logs and answers
	once   string // made here: under it an instance accepts the turn once, whatever ids clients send
	user   string
	former string // who the user was under the previous token, if the request says so
	body   *body
	trace  http.Header
	last   string // the last event that the client has, if it takes a stream up again
	key    key
	// service is the id of the service's key that the request came by; empty: there are none.
	service string
}

// errNotNow says that nothing was run and that trying again shortly makes sense.
var errNotNow = errors.New("front: the owner can't take the request now")

// begun wraps the error of a request that may have been run in part.
type begun struct{ error }

func (b begun) Unwrap() error { return b.error }

// forward finds the user's owner and returns its answer. It tries again only what was never accepted: a turn is never
// run twice.
func (f *Front) forward(ctx context.Context, c call) (*http.Response, error) {
	deadline := time.Now().Add(patience)
	wait := firstWait
	for {
		answer, err := f.attempt(ctx, c)
		retry := errors.Is(err, errNotNow) || errors.Is(err, router.ErrDraining)
		if err == nil || !retry || time.Now().After(deadline) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait/2 + rand.N(wait/2)): // #nosec G404 -- jitter
		}
		wait = min(2*wait, longestWait)
	}
}

// attempt asks the router once and the owner once; an owner that says it isn't costs a second question at once.
func (f *Front) attempt(ctx context.Context, c call) (*http.Response, error) {
	for range 2 {
		owner, err := f.route(ctx, c)
		if err != nil {
			return nil, err
		}
		answer, err := f.send(ctx, c, owner)
		switch {
		case errors.Is(err, hop.ErrUnreached) && ctx.Err() == nil:
			// The router answers with another owner if this one is gone, and not at all while its lease lives.
			f.opts.Router.Unreachable(ctx, c.user, owner)
		case err != nil:
			return nil, begun{err}
		case answer.StatusCode == http.StatusMisdirectedRequest:
			_ = answer.Body.Close()
			f.misdirected(c, owner)
		case answer.Header.Get(api.HeaderNotStarted) != "":
			_ = answer.Body.Close()
			// It may be draining and have given this user up already: the next try is not to wait for its end.
			f.misdirected(c, owner)
			return nil, errNotNow
		default:
			return answer, nil
		}
	}
	return nil, errNotNow
}

func (f *Front) route(ctx context.Context, c call) (owner router.Owner, err error) {
	ctx, span := telemetry.Span(ctx, "route")
	if span.IsRecording() {
		span.SetAttributes(semconv.UserHash(api.ShortUser(c.user)))
	}
	defer func() { telemetry.End(span, err) }()
	if c.former != "" {
		return f.opts.Router.RouteTogether(ctx, c.user, c.former)
	}
	return f.opts.Router.Route(ctx, c.user)
}

func (f *Front) misdirected(c call, owner router.Owner) {
	f.opts.Router.Misdirected(c.user, owner)
	if c.former != "" {
		f.opts.Router.Misdirected(c.former, owner)
	}
}

// send makes the hop. A connection that broke before any answer is tried once more under the same request id, which the
// instance accepts once.
func (f *Front) send(ctx context.Context, c call, owner router.Owner) (*http.Response, error) {
	answer, err := f.exchange(ctx, c, owner)
	if err == nil || ctx.Err() != nil || errors.Is(err, hop.ErrUnreached) {
		return answer, err
	}
	if c.path != api.PathMessages {
		c.once = logging.RequestID(nil) // nothing is run by it, and the instance may have seen this one
	}
	answer, again := f.exchange(ctx, c, owner)
	if errors.Is(again, hop.ErrUnreached) && c.path == api.PathMessages && !f.opts.Router.Answered(ctx, owner) {
		return nil, err // the first one may have been accepted: the error must not be ErrUnreached
	}
	return answer, again
}

func (f *Front) exchange(ctx context.Context, c call, owner router.Owner) (*http.Response, error) {
	r, err := newHop(ctx, owner, http.MethodPost, c.path, c.body)
	if err != nil {
		return nil, err
	}
	if c.last != "" {
		r.Header.Set(api.HeaderLastEvent, c.last)
	}
	if c.path == api.PathMessages {
		c.key.set(r.Header)
	}
	if c.service != "" && (c.path == api.PathMessages || c.path == api.PathChannelSend) {
		r.Header.Set(api.HeaderServiceKey, c.service)
	}
	f.sign(r, c, owner)
	return f.opts.Client.hops.RoundTrip(r)
}

// sign says in the hop's header what it is for.
func (f *Front) sign(r *http.Request, c call, owner router.Owner) {
	claims := hop.Claims{Instance: owner.Instance, User: c.user, RequestID: c.once, Path: c.path, Outage: owner.Outage,
		Version: hop.Common(owner.Wire)}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(api.HeaderRequestID, c.id)
	r.Header.Set(api.HeaderHop, f.opts.Keys.Sign(claims, time.Now()))
	for _, name := range logging.TraceHeaders {
		if v := c.trace.Get(name); v != "" {
			r.Header.Set(name, logging.Unsampled(name, v)) // whoever traces here says so in its place
		}
	}
}

// served is the owner's good answer, whose body has to be closed. Where there is none the client is told why, and it is
// nil.
func (f *Front) served(ctx context.Context, w http.ResponseWriter, c call) *http.Response {
	answer, err := f.forward(ctx, c)
	if err != nil {
		f.unserved(ctx, w, c, err)
		return nil
	}
	f.limitWrite(http.NewResponseController(w))
	if answer.StatusCode != http.StatusOK {
		f.passError(ctx, w, c, answer)
		_ = answer.Body.Close()
		return nil
	}
	return answer
}

// unserved tells the client that its request was not served.
func (f *Front) unserved(ctx context.Context, w http.ResponseWriter, c call, err error) {
	if ctx.Err() == nil && !errors.Is(err, router.ErrUnavailable) { // of which the router tells once
		f.opts.Logger.WarnContext(ctx, "request not served", "user", api.ShortUser(c.user), "error", err)
	}
	api.WriteError(w, c.id, public(ctx, err))
}

// public is what the client gets to know of a request that was not served.
func public(ctx context.Context, err error) error {
	if errors.As(err, new(begun)) {
		known := *api.Known(mapError(ctx, err))
		known.Begun = true
		return &known
	}
	return mapError(ctx, err)
}

func mapError(ctx context.Context, err error) error {
	err = orCause(ctx, err)
	switch {
	case errors.As(err, new(*api.Error)):
		return err
	case errors.Is(err, router.ErrFull):
		return api.Overloaded(2*time.Second, "no instance has room now")
	case errors.Is(err, router.ErrUnavailable), errors.Is(err, router.ErrDraining), errors.Is(err, errNotNow):
		return api.Unavailable(time.Second, "this user can't be served now, try again")
	}
	return api.BadGateway("the instance did not answer")
}

// passAnswer hands an instance's answer on that is no stream and no error.
func passAnswer(w http.ResponseWriter, id string, answer *http.Response) {
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer || answer.Header.Get("Content-Type") != "application/json" {
		api.WriteError(w, id, api.BadGateway("the instance gave no answer"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	api.SetRequestID(w.Header(), id)
	_, _ = w.Write(body) // #nosec G705 -- JSON of our own instance
}

// passError hands an instance's error on, if it is one that clients may see. A 401 that says nothing of the user's
// credential is about the hop: the keys or the clocks of front and instance differ.
func (f *Front) passError(ctx context.Context, w http.ResponseWriter, c call, answer *http.Response) {
	refused := answer.StatusCode == http.StatusUnauthorized && answer.Header.Get(api.HeaderCredential) == ""
	if refused {
		f.opts.Logger.ErrorContext(ctx, "the instance refuses this front's hop", "user", api.ShortUser(c.user))
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxErrorBody))
	hasBegun := answer.Header.Get(api.HeaderBegun) != ""
	// the hop; else it is an idempotency key that was used
	repeated := answer.StatusCode == http.StatusConflict && !hasBegun
	if err != nil || refused || answer.StatusCode < 400 || repeated ||
		answer.Header.Get("Content-Type") != "application/json" {
		silent := api.BadGateway("the instance gave no answer")
		silent.Begun = true
		api.WriteError(w, c.id, silent)
		return
	}
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if v := answer.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	again := answer.Header.Get("Retry-After") != "" && !hasBegun
	w.Header().Set(api.HeaderShouldRetry, strconv.FormatBool(again))
	api.SetRequestID(w.Header(), c.id)
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(body)
}
