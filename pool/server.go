package pool

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"claudepool/infra/hop"
	"claudepool/infra/logging"
	"claudepool/pool/api"
)

// queueGrace is how long a request may wait before its stream is opened with nothing but pings in it. Tests have less time.
var queueGrace = 10 * time.Second

// updateTime is after how long a client of a front whose release is too far from this one's may find another.
const updateTime = 10 * time.Second

// ServerOptions are the settings of an instance's HTTP server.
type ServerOptions struct {
	Logger       *slog.Logger
	Instance     string // this instance's id
	Keys         hop.Keys
	MaxBodyBytes int64
	// NotOwner and NotNow are the errors of the Ownership that a front understands: ask Redis again, try again shortly.
	NotOwner, NotNow error
}

// Server is the HTTP side of an instance: it takes what fronts send and nobody else.
type Server struct {
	opts ServerOptions
	pool *Pool
	once *once

	replays *replays
}

// NewServer returns the instance's handler.
func NewServer(pool *Pool, opts ServerOptions) http.Handler {
	s := &Server{opts: opts, pool: pool, once: newOnce(), replays: newReplays()}
	mux := http.NewServeMux()
	for path, do := range map[string]handler{api.PathMessages: s.serve, api.PathResume: s.takeUp, api.PathForget: s.forget} {
		mux.HandleFunc("POST "+path, s.hop(path, do))
	}
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { api.WriteError(w, "", api.NotFound("no such path")) })
	return mux
}

// handler answers what a front sends on a stream. What it returns goes to the client.
type handler func(context.Context, hop.Claims, *http.Request, *stream) error

// hop has do answer what a front sends to the path, once.
func (s *Server) hop(path string, do handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		claims, err := s.opts.Keys.Verify(r.Header.Get(api.HeaderHop), time.Now())
		if err != nil {
			s.refuse(w, err)
			return
		}
		id := logging.RequestID(r.Header)
		ctx := logging.WithRequest(r.Context(), id, r.Header)
		out := newStream(w, id, s.opts.Instance)
		defer out.close()
		switch {
		case claims.Instance != s.opts.Instance:
			err = s.opts.NotOwner
		case claims.Path != path && (claims.Path != "" || path != api.PathMessages): // fronts once said none, and had no other
			err = errOtherPath
		default:
			if err = s.once.claim(claims.RequestID); err == nil {
				err = do(ctx, claims, r, out)
				s.once.giveBack(claims.RequestID)
			}
		}
		if err != nil {
			out.fail(s.public(ctx, err))
			return
		}
		out.done()
	}
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	s.opts.Logger.Warn("hop refused", "error", err)
	refused := api.Authentication("this address is for fronts only")
	if errors.Is(err, hop.ErrVersion) {
		refused = api.Unavailable(updateTime, "the service is being updated, try again")
	}
	api.WriteError(w, "", refused)
}

var (
	errOtherUser = api.Authentication("the hop is not for this user")
	errOtherPath = api.Authentication("the hop is not for this path")
)

// serve runs one request's turn.
func (s *Server) serve(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, err := api.Decode(r.Body, s.opts.MaxBodyBytes)
	if err != nil {
		return err
	}
	if req.UserID() != claims.User {
		return errOtherUser
	}
	out.openAfter(queueGrace)
	h, err := s.pool.Acquire(ctx, req, claims.Outage)
	if err != nil {
		return err
	}
	s.once.begin(claims.RequestID)
	if req.OnDisconnect == api.Finish {
		return s.finishing(ctx, h, out)
	}
	defer h.Release()
	return h.Turn(ctx, func() { out.open(out.receiptOf(h)) }, out.lines)
}

// takeUp goes on with the stream of a turn that was begun before. Nothing is run.
func (s *Server) takeUp(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, err := api.DecodeCredential(r.Body, s.opts.MaxBodyBytes)
	if err != nil {
		return err
	}
	if req.UserID() != claims.User {
		return errOtherUser
	}
	s.once.begin(claims.RequestID)
	return s.resume(ctx, req.UserDigest(), r.Header.Get(api.HeaderLastEvent), out)
}

// forget deletes what the user wants to be forgotten. To do so twice does no harm.
func (s *Server) forget(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, err := api.DecodeDeletion(r.Body, s.opts.MaxBodyBytes)
	if err != nil {
		return err
	}
	if req.UserID() != claims.User {
		return errOtherUser
	}
	s.once.begin(claims.RequestID)
	deleted, err := s.pool.Forget(ctx, req, claims.Outage)
	if err != nil {
		return err
	}
	out.answer(api.Forgotten{Deleted: deleted})
	return nil
}

// public maps what went wrong to what the front and its client get to know; the rest goes to the log.
func (s *Server) public(ctx context.Context, err error) error {
	var known *api.Error
	switch {
	case errors.As(err, new(notStarted)):
		return err
	case errors.As(err, &known):
		return known
	case errors.Is(err, s.opts.NotOwner):
		return api.Misdirected("not the owner of this user")
	case errors.Is(err, s.opts.NotNow), errors.Is(err, ErrDraining):
		return notStarted{api.Unavailable(time.Second, "this user is being moved, try again")}
	case ctx.Err() != nil:
		s.opts.Logger.InfoContext(ctx, "client gone")
	default:
		s.opts.Logger.ErrorContext(ctx, "request failed", "error", err)
	}
	return api.Unavailable(time.Second, "the process of this conversation could not be made ready")
}

// notStarted is an error that lets the front try again: nothing of the request was run.
type notStarted struct{ error }

func (e notStarted) Unwrap() error { return e.error }
