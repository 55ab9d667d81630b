// Package server is the HTTP side of an instance: it takes what fronts send and nobody else, sees to it that nothing is
// run twice, and hands a turn's lines over as a stream that is never silent for long and always ends explicitly, or can
// be taken up again. It knows no processes and no users, only a Backend.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"claudepool/infra/hop"
	"claudepool/infra/logging"
	"claudepool/pool/api"
)

// updateTime is after how long a client of a front whose release is too far from this one's may find another.
const updateTime = 10 * time.Second

// Backend is what runs the turns. Its methods may be called concurrently.
type Backend interface {
	// Acquire waits in line for the conversation that a request is meant for and makes its process ready. On an error
	// nothing was run. outage says that the front vouches for the instance. A Turn has to be released.
	Acquire(ctx context.Context, req *api.Request, outage bool) (Turn, error)
	// Hold has the user of a request stay this instance's until it is let go. Nothing is run.
	Hold(ctx context.Context, req *api.Request, outage bool) (letGo func(), err error)
	// Attend has the user stay as Hold does, for who may stay for long. leaving ends when the user is to be given up,
	// which then waits for letGo.
	Attend(ctx context.Context, req *api.Request, outage bool) (leaving context.Context, letGo func(), err error)
	// Allowed refuses what a request may not ask here. Nothing is run.
	Allowed(req *api.Request) error
	// Approves reports whether requests can be interactive.
	Approves() bool
	// Delete forgets the user's conversations, or that of the request's session, and returns how many there were.
	Delete(ctx context.Context, req *api.Request, outage bool) (deleted int, err error)
	// Answer gives a turn that runs what it has asked of its client.
	Answer(ctx context.Context, a *api.Answer, outage bool) error
	// List tells of all the user's conversations, those used last first, and starts nothing.
	List(ctx context.Context, req *api.Request, outage bool) ([]api.Conversation, error)
	// Said tells what was said in the conversation of the request's session, and starts nothing: up to limit messages
	// before the one of a number, or the last ones for 0.
	Said(ctx context.Context, req *api.Request, outage bool, before, limit int) (api.ConversationMessages, error)
	// Fork makes a conversation under the id in which the same has been said as in that of the request's session.
	Fork(ctx context.Context, req *api.Request, outage bool, id string) error
	// Pass has the API answer a call that needs no process.
	Pass(ctx context.Context, call api.Call) (answer []byte, err error)
}

// Turn is one turn that is about to run. Its methods are for one goroutine, but for those that say otherwise.
type Turn interface {
	// Run sends the request's message, calls sent, and hands over the lines that answer it, in batches. The process may
	// turn out to have died before it took the message up; then all of it, sent too, is done once more with another.
	// The end of the context that emit gets, unless its cause is context.Canceled, says that it may not wait for the
	// client any longer.
	Run(ctx context.Context, sent func(), emit func(ctx context.Context, lines [][]byte) error) error
	// Receipt tells which process has the turn and how long it took to get it, from within sent on, and after Run how the
	// turn has gone.
	Receipt() api.Receipt
	// SetAway says whether nobody has read the turn's lines for so long that nobody will answer what it asks. It may be
	// called concurrently with Run.
	SetAway(away bool)
	// Interrupt has the turn end, which its result tells, and Steer gives it another message. Anybody may call them while
	// Run is under way. The error is api.ErrNoTurn when it isn't any more, Interrupt's also ctx's cause.
	Interrupt(ctx context.Context) error
	Steer(uuid string, content json.RawMessage, priority string) error
	// Release gives the conversation to the next in line.
	Release()
}

// Handover passes what is known of a user's idempotency keys from one owner to the next. Its methods may be called
// concurrently.
type Handover interface {
	// Claim is the number of the claim by which the user is this instance's, or empty: with another one there may have
	// been another owner.
	Claim(user string) string
	// Left returns what Server.HandOver has returned at the last owner before that had anything to hand over, or nil.
	Left(ctx context.Context, user string) ([]byte, error)
	// DropLeft deletes it.
	DropLeft(ctx context.Context, user string) error
}

// Options are the settings of an instance's HTTP server.
type Options struct {
	Logger       *slog.Logger
	Instance     string // this instance's id
	Keys         hop.Keys
	MaxBodyBytes int64
	Memory       uint64   // bytes there are, of which bodies get a part
	LogBytes     int64    // what the event logs of all channels may take
	NotOwner     error    // the Backend's error that tells a front to ask Redis again
	NotNow       []error  // those after which a front is to try again shortly: nothing of the request was run
	Handover     Handover // nil: there is no other instance

	tuning *tuning // nil: as in production
}

// tuning is what tests have otherwise.
type tuning struct {
	queueGrace   time.Duration // how long a request may wait before its stream is opened with nothing but pings in it
	pingInterval time.Duration // the longest a stream stays silent, so that nobody on the way takes it for dead
	replayBytes  int           // how much of a turn's stream is kept for a client that lost its connection
	endedBytes   int           // how much of all ended turns together
	replayKeep   time.Duration // for how long after its end
	awayAfter    time.Duration // how long a turn waits for somebody who would answer what it asks
}

var production = tuning{queueGrace: 10 * time.Second, pingInterval: 15 * time.Second,
	replayBytes: 4 << 20, endedBytes: 64 << 20, replayKeep: time.Minute, awayAfter: time.Minute}

// Server is an instance's http.Handler. Its owner has to call Close.
type Server struct {
	opts     Options
	tuning   tuning
	backend  Backend
	intake   *api.Intake
	passing  *api.Intake // of calls that are passed through: they take no room from turns
	dedup    *dedup
	replays  *replays
	channels *channels
	keys     *keys
	leaving  *rate.Limiter       // bytes of answers that are left for other owners
	opening  *semaphore.Weighted // what other owners have left, until it is taken over
	mux      *http.ServeMux

	finishing sync.WaitGroup  // turns that go on without their clients
	ending    context.Context // done when calls that are passed through are to be left to other instances
	end       context.CancelFunc
}

// New returns the instance's handler.
func New(backend Backend, opts Options) *Server {
	s := &Server{opts: opts, tuning: production, backend: backend, dedup: newDedup(), mux: http.NewServeMux(),
		intake: api.NewIntake(opts.MaxBodyBytes, opts.Memory), passing: api.NewIntake(opts.MaxBodyBytes,
			opts.Memory/passingShare)}
	s.ending, s.end = context.WithCancel(context.Background()) // #nosec G118 -- Close calls it
	if opts.tuning != nil {
		s.tuning = *opts.tuning
	}
	s.replays, s.keys = newReplays(s.tuning), newKeys()
	s.channels = newChannels(s)
	s.opening = semaphore.NewWeighted(opened)
	s.leaving = rate.NewLimiter(rate.Limit(leftOfAll/keyKeep.Seconds()), leftOfAll)
	for path, do := range map[string]handler{api.PathMessages: s.serve, api.PathResume: s.resume,
		api.PathDelete: s.delete, api.PathConversations: s.list, api.PathOne: s.one, api.PathSaid: s.said,
		api.PathForks: s.fork, api.PathAnswer: s.giveAnswer, api.PathChannelStream: s.follow,
		api.PathChannelSend: s.send} {
		s.mux.HandleFunc("POST "+path, s.hop(path, do))
	}
	for _, call := range []string{"POST " + api.PathCountTokens, "GET " + api.PathModels, "GET " + api.PathModel} {
		s.mux.HandleFunc(call, s.passThrough)
	}
	s.mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		api.WriteError(w, "", api.NotFound("no such path"))
	})
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close ends the calls that are passed through, and returns when no turn goes on without its client any more. The
// Backend ends those that take too long.
func (s *Server) Close() {
	s.end()
	s.finishing.Wait()
	s.channels.close()
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
		out := newStream(w, id, s.opts.Instance, s.tuning.pingInterval)
		defer out.close()
		defer context.AfterFunc(ctx, out.limitWrite)() // the client has gone, or seems to have
		if err := s.answer(ctx, path, claims, do, r, out); err != nil {
			out.fail(s.public(ctx, err))
			return
		}
		out.done()
	}
}

func (s *Server) answer(ctx context.Context, path string, claims hop.Claims, do handler, r *http.Request,
	out *stream) error {
	if claims.Instance != s.opts.Instance {
		return s.opts.NotOwner
	}
	if claims.Path != path && (claims.Path != "" || path != api.PathMessages) { // fronts once said none, and had no other
		return errOtherPath
	}
	if err := s.dedup.claim(claims.RequestID); err != nil {
		return err
	}
	defer s.dedup.release(claims.RequestID)
	return do(ctx, claims, r, out)
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
	case slices.ContainsFunc(s.opts.NotNow, func(e error) bool { return errors.Is(err, e) }):
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
