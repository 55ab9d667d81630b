package function

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"time"

	"claudepool/infra/logging"
	"claudepool/pool/api"
	"claudepool/router"
)

const (
	// callTime is how long a call may take from when its body is there: above what an instance waits for the API.
	callTime = 55 * time.Second
	// callTries is how many instances are asked to pass a call through.
	callTries = 3
	// callsAtOnce is how many calls are passed through at a time.
	callsAtOnce = 32
	// placesPart is the part of the free places that an address may have, and one at least: the more are taken, the fewer
	// are left to each.
	placesPart = 4
	// callsShare is which part of what turns' bodies may take those of calls may take besides.
	callsShare = 4
	callRetry  = time.Second
)

// calls are those that are passed through to the API. They have room of their own, so that they take none from turns.
type calls struct {
	intake *api.Intake
	places *places
}

func newCalls(opts Options) calls {
	return calls{api.NewIntake(opts.MaxBodyBytes, opts.Memory/callsShare), newPlaces(callsAtOnce)}
}

// places are for what is under way. Its methods may be called concurrently.
type places struct {
	most  int
	mu    sync.Mutex // guards the following
	all   int
	taken map[string]int // by address
}

func newPlaces(most int) *places { return &places{most: most, taken: make(map[string]int)} }

// acquire takes a place, which has to be left, unless all are taken or too many of them from the address.
func (p *places) acquire(addr string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := p.most - p.all
	if free == 0 || p.taken[addr] >= max(1, free/placesPart) {
		return false
	}
	p.all++
	p.taken[addr]++
	return true
}

func (p *places) release(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.taken[addr]--; p.taken[addr] == 0 {
		delete(p.taken, addr)
	}
}

// passThrough has the API answer a call that needs no process. Any instance can make it, as no user is claimed for it.
func (f *Front) passThrough(w http.ResponseWriter, r *http.Request) {
	id := logging.RequestID(r.Header)
	ctx, cut := context.WithCancelCause(logging.WithRequest(r.Context(), id, r.Header))
	defer cut(nil)
	defer f.cutBeforeDeadline(ctx, cut)()
	if err := f.precheck(w, r); err != nil {
		f.refuse(w, r, id, err)
		return
	}
	call, err := api.NewCall(r)
	if err != nil {
		api.WriteError(w, id, err)
		return
	}
	if call.Method == http.MethodPost {
		body, err := f.readBody(ctx, w, r, f.calls.intake)
		if err != nil {
			f.refuse(w, r, id, orCause(ctx, err))
			return
		}
		defer body.Release()
		call.Body = body.Bytes
	}
	f.ask(ctx, w, r, id, call)
}

// ask answers with what an instance has from the API.
func (f *Front) ask(ctx context.Context, w http.ResponseWriter, r *http.Request, id string, to api.Call) {
	addr, _ := clientAddr(r, f.opts.TrustedProxies)
	if !f.calls.places.acquire(addr) {
		api.WriteError(w, id, api.RateLimited(callRetry, "too many calls of this kind are under way, try again"))
		return
	}
	defer f.calls.places.release(addr)
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errTooLong)
	defer cancel()
	c := call{path: to.Path, id: id, user: to.Credential.UserID(), body: newBody(to.Body), trace: r.Header}
	answer, err := f.passToAny(ctx, c, to)
	if err != nil {
		api.WriteError(w, id, orCause(ctx, err))
		return
	}
	defer func() { _ = answer.Body.Close() }()
	f.limitWrite(http.NewResponseController(w))
	if answer.StatusCode != http.StatusOK {
		f.passError(ctx, w, c, answer)
		return
	}
	passAnswer(w, id, answer)
}

var errNoInstance = api.Unavailable(callRetry, "no instance can ask the API now, try again")

// passToAny asks one instance after the other until one has an answer. To ask twice does no harm. Instances of the
// release before don't know such calls.
func (f *Front) passToAny(ctx context.Context, c call, to api.Call) (*http.Response, error) {
	for _, instance := range f.opts.Router.Sample(callTries) {
		answer, err := f.passTo(ctx, c, to, instance)
		switch {
		case ctx.Err() != nil:
			return nil, errNoInstance
		case err != nil:
			f.opts.Logger.InfoContext(ctx, "an instance can't be asked", "instance", instance.Instance, "error", err)
		case answer.Header.Get(api.HeaderPassed) != "":
			return answer, nil
		default:
			_ = answer.Body.Close()
		}
	}
	return nil, errNoInstance
}

func (f *Front) passTo(ctx context.Context, c call, to api.Call, instance router.Owner) (*http.Response, error) {
	r, err := newHop(ctx, instance, to.Method, to.Path, c.body)
	if err != nil {
		return nil, err
	}
	r.URL.RawQuery = to.Query
	maps.Copy(r.Header, to.Header)
	if to.Credential.OAuth != nil {
		r.Header.Set("Authorization", "Bearer "+to.Credential.Token())
	} else {
		r.Header.Set("X-Api-Key", to.Credential.Token())
	}
	c.once = logging.RequestID(nil)
	f.sign(r, c, instance)
	return f.opts.Client.hops.RoundTrip(r)
}
