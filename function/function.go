// Package function is the front: it validates requests, finds the instance that owns the user, and passes the stream
// on. It keeps no state that another front would miss.
package function

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"claudepool/function/page"
	"claudepool/function/talk"
	"claudepool/infra/hop"
	"claudepool/infra/logging"
	"claudepool/infra/snapshot"
	"claudepool/infra/usage"
	"claudepool/pool/api"
	"claudepool/router"
)

// restsAtOnce is of how many refused bodies the rest is taken at a time.
const restsAtOnce = 8

// clientTimeout bounds what a client can hold open by being slow.
const clientTimeout = time.Minute

// Router says where a user's requests go; see the router package.
type Router interface {
	Route(ctx context.Context, user string) (router.Owner, error)
	RouteTogether(ctx context.Context, user, former string) (router.Owner, error)
	Misdirected(user string, owner router.Owner)
	Unreachable(ctx context.Context, user string, owner router.Owner)
	Answered(ctx context.Context, owner router.Owner) bool
	Sample(n int) []router.Owner
}

// Options are a front's settings and what it works with.
type Options struct {
	Logger       *slog.Logger
	Router       Router
	Client       *Client
	View         *snapshot.View
	Keys         hop.Keys
	MaxBodyBytes int64
	Memory       uint64 // bytes there are, of which bodies get a part
	StatsToken   string // empty: stats are as open as the rest
	APIKeys      APIKeys
	Limits       *Limits
	Usage        *usage.Reader
	// TrustedProxies is how many proxies in front of this one append to X-Forwarded-For.
	TrustedProxies int
	// AllowedOrigins are those whose pages may use the service from a browser, or "*" alone.
	AllowedOrigins []string
}

// Front serves the public contract. It is an http.Handler.
type Front struct {
	opts   Options
	intake *api.Intake
	calls  calls // that are passed through to the API
	mux    *http.ServeMux
	// clientTimeout is how long a client may take to send its body, and to read some of what is there for it.
	clientTimeout time.Duration
	hopSilence    time.Duration
	rests         *semaphore.Weighted // of refused bodies, that are taken
	kept          *kept               // what answers that are not streamed take
	events        *kept               // what has come of events that aren't whole yet
	feed          *feed
	closing       context.Context // done when what could go on for ever is to be ended
	close         context.CancelFunc
	ending        context.Context // done when running streams are to be ended
	end           context.CancelFunc

	mu       sync.Mutex // guards the following
	running  int        // requests
	draining bool
	idle     *sync.Cond // signalled when a request has ended
}

// New returns a Front.
func New(opts Options) *Front {
	f := &Front{opts: opts, intake: api.NewIntake(opts.MaxBodyBytes, opts.Memory), mux: http.NewServeMux(),
		clientTimeout: clientTimeout, hopSilence: hopSilence, rests: semaphore.NewWeighted(restsAtOnce),
		calls: newCalls(opts),
		kept:  newKept(opts.Memory, maxMessage), events: newKept(opts.Memory, maxEvent), feed: newFeed(opts.View)}
	f.idle = sync.NewCond(&f.mu)
	f.closing, f.close = context.WithCancel(context.Background()) // #nosec G118 -- Drain calls it
	f.ending, f.end = context.WithCancel(context.Background())    // #nosec G118 -- Drain calls it
	f.mux.HandleFunc("/", f.notFound)
	for pattern, handler := range f.endpoints() {
		f.mux.Handle(pattern, handler)
	}
	return f
}

// endpoints are what is answered where.
func (f *Front) endpoints() map[string]http.Handler {
	pages := crossOrigin(f.opts.AllowedOrigins) // for what is the users'; the operator's is for no other site's pages
	toOperators := f.only(f.files(page.Files()), http.MethodGet, http.MethodHead)
	toTalkers := f.files(talk.Files())
	return map[string]http.Handler{
		api.PathMessages:             pages(f.only(f.messages, http.MethodPost)),
		api.PathMessagesAPI:          pages(f.only(f.messagesAPI, http.MethodPost)),
		api.PathChat:                 pages(f.only(f.chat, http.MethodPost)),
		api.PathResume:               pages(f.only(f.resume, http.MethodPost)),
		api.PathAnswer:               pages(f.only(f.giveAnswer, http.MethodPost)),
		api.PathDelete:               pages(f.only(f.delete, http.MethodPost)),
		api.PathConversations:        pages(f.only(f.list, http.MethodGet)),
		api.PathConversation:         pages(f.only(f.conversation, http.MethodGet, http.MethodDelete)),
		api.PathConversationMessages: pages(f.only(f.said, http.MethodGet)),
		api.PathConversationFork:     pages(f.only(f.fork, http.MethodPost)),
		api.PathStream:               pages(f.only(f.channelStream, http.MethodGet)),
		api.PathSend:                 pages(f.only(f.channelSend, http.MethodPost)),
		api.PathCountTokens:          pages(f.only(f.passThrough, http.MethodPost)),
		api.PathModels:               pages(f.only(f.passThrough, http.MethodGet)),
		api.PathModel:                pages(f.only(f.passThrough, http.MethodGet)),
		pathDocument:                 pages(f.only(document(), http.MethodGet, http.MethodHead)),
		api.PathUsage:                pages(f.only(f.usage, http.MethodGet)),
		api.PathAdminUsage:           f.only(f.adminUsage, http.MethodGet),
		pathStats:                    f.only(f.private(f.stats), http.MethodGet, http.MethodHead),
		pathStream:                   f.only(f.private(f.streamStats), http.MethodGet),
		page.Path:                    toOperators,
		page.Path + "/{file}":        toOperators,
		"/health":                    f.only(f.health, http.MethodGet, http.MethodHead),
		talk.Path + "/{file}":        f.only(toTalkers, http.MethodGet, http.MethodHead),
		"/{$}":                       f.only(f.root(toTalkers), http.MethodGet, http.MethodHead),
	}
}

func (f *Front) notFound(w http.ResponseWriter, r *http.Request) {
	api.WriteError(w, logging.RequestID(r.Header), api.NotFound("no such path; GET / describes the service"))
}

// ServeHTTP answers one request.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w = inShape(w, r)
	if !f.begin() {
		w.Header().Set("Connection", "close")
		api.WriteError(w, logging.RequestID(r.Header), api.Unavailable(time.Second, "the front is shutting down"))
		return
	}
	defer f.done()
	// A client that has stopped reading must not hold up the end of the front.
	control := http.NewResponseController(w)
	defer context.AfterFunc(f.ending, func() { _ = control.SetWriteDeadline(time.Now().Add(lastWrite)) })()
	f.mux.ServeHTTP(w, r)
}

func (f *Front) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return false
	}
	f.running++
	return true
}

func (f *Front) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	f.idle.Broadcast()
}

// Drain refuses new requests and returns when the running ones have ended. Streams that run for longer than grace are
// ended, each with an explicit error.
func (f *Front) Drain(grace time.Duration) {
	defer time.AfterFunc(grace, f.end).Stop()
	f.close()
	f.mu.Lock()
	f.draining = true
	for f.running > 0 {
		f.idle.Wait()
	}
	f.mu.Unlock()
	f.opts.Client.http.CloseIdleConnections()
}

func (f *Front) only(next http.HandlerFunc, methods ...string) http.HandlerFunc {
	allow := strings.Join(methods, ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		for _, m := range methods {
			if r.Method == m {
				next(w, r)
				return
			}
		}
		w.Header().Set("Allow", allow)
		api.WriteError(w, logging.RequestID(r.Header), api.MethodNotAllowed("only %s is allowed here", allow))
	}
}

type decoder func(body []byte) (*api.Request, error)

// kind is what tells the requests of one path from those of others.
type kind struct {
	decode decoder
	begin  func(sent *api.Body) (call, error) // for a request that is valid
	sink   func() sink                        // what gets the stream; nil: the client, as it is
	isFree bool                               // it doesn't count for what a user may ask
}

// serve has the owner of the request's user answer it.
func (f *Front) serve(w http.ResponseWriter, r *http.Request, k kind) {
	id := logging.RequestID(r.Header)
	ctx, cut := context.WithCancelCause(logging.WithRequest(r.Context(), id, r.Header))
	defer cut(nil)
	defer f.cutBeforeDeadline(ctx, cut)()
	if err := f.precheck(w, r); err != nil {
		f.refuse(w, r, id, err)
		return
	}
	sent, req, err := f.read(ctx, w, r, k.decode)
	defer sent.Release()
	if err == nil && !k.isFree {
		err = f.opts.Limits.user(ctx, w.Header(), req.UserID())
	}
	var c call
	if err == nil {
		c, err = k.call(sent, r.Header, req)
	}
	if err != nil {
		if err = orCause(ctx, err); sent == nil {
			f.refuse(w, r, id, err)
			return
		}
		api.WriteError(w, id, err)
		return
	}
	c.id, c.once, c.trace = id, logging.RequestID(nil), r.Header
	c.user, c.body, c.service = req.UserID(), newBody(sent.Bytes), f.opts.APIKeys.idOf(r)
	if former := req.Former(); former != nil && (c.path == api.PathMessages || c.path == api.PathAnswer) {
		c.former = former.UserID()
	}
	answer := f.served(ctx, w, c)
	if answer == nil {
		return
	}
	defer func() { _ = answer.Body.Close() }()
	if c.path == api.PathDelete || c.path == api.PathAnswer {
		passAnswer(w, id, answer)
		return
	}
	c.body.drop() // a stream can be long, and the credential is all it takes to take it up again
	sent.Release()
	c.body = newBody(credentialOf(req))
	client := f.pass(w, id)
	if k.sink != nil {
		client = k.sink()
	}
	f.stream(ctx, client, c, answer)
}

func (f *Front) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]string{"status": "ok"})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}
