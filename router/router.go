package router

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

var (
	// ErrFull says that every instance is full of busy processes.
	ErrFull = errors.New("router: no instance has room")
	// ErrUnavailable says that nobody can be placed now: no instance lives, Redis is away or has just come back, or the
	// owner can't be dialled; or that too many wait to be.
	ErrUnavailable = errors.New("router: nobody can be placed now")
	// ErrDraining says that the owner is giving the user up: try again shortly.
	ErrDraining = errors.New("router: the owner is draining")
)

const (
	// maxClaims is how many users may be waited for at a time: a claim goes on when the client has gone.
	maxClaims    = 4096
	claimTimeout = 2 * time.Second
	// firstInstance is how long a claim waits for an instance that is there but not yet dialled.
	firstInstance = 3 * time.Second
)

// Owner is the instance a user's requests go to.
type Owner struct {
	Instance    string
	Addr        string // host:port
	Fingerprint string // of the instance's certificate; empty for a version that had none
	Wire        int    // version of the wire that the instance speaks
	Outage      bool   // known from before, as Redis can't be reached now
}

// Options are a front's settings.
type Options struct {
	Logger *slog.Logger
	// Reach makes a connection to an instance as requests will, and best leaves it for them. It may be called
	// concurrently.
	Reach func(ctx context.Context, owner Owner) error
}

// Router is the front's side. Its methods may be called concurrently.
type Router struct {
	redis Redis
	opts  Options

	known      known // in steady state a request costs no round trip
	claims     singleflight.Group
	openClaims atomic.Int64 // claims under way
	asker      asker[claimed]
	away       atomic.Bool // Redis can't be reached

	firstWait time.Duration // how long a claim waits for an instance that is there but not yet dialled

	reached map[string]time.Time // when instances were, by id; keepWarm's own
	living  atomic.Pointer[[]Owner]

	mu    sync.Mutex           // guards avoid
	avoid map[string]avoidance // instances that could not be dialled
}

// New returns a front's Router. Run keeps it informed.
func New(redis Redis, opts Options) *Router {
	r := &Router{redis: redis, opts: opts, known: newKnown(maxKnown),
		firstWait: firstInstance, reached: make(map[string]time.Time), avoid: make(map[string]avoidance)}
	r.asker = asker[claimed]{parallel: parallel, script: r.claimAll}
	return r
}

// Route says where the user's request goes, and makes somebody the owner if nobody is. The error is ErrFull,
// ErrUnavailable, ErrDraining, or ctx's.
func (r *Router) Route(ctx context.Context, user string) (Owner, error) {
	if owner, ok := r.known.owner(user); ok {
		owner.Outage = r.away.Load()
		return owner, nil
	}
	if r.openClaims.Load() >= maxClaims {
		return Owner{}, ErrUnavailable
	}
	// A claim is shared by all requests that wait for it, so none of them may cancel it.
	flight := r.claims.DoChan(user, func() (any, error) {
		r.openClaims.Add(1)
		defer r.openClaims.Add(-1)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout+firstInstance)
		defer cancel()
		return r.claim(ctx, user)
	})
	select {
	case result := <-flight:
		if result.Err != nil {
			return Owner{}, result.Err
		}
		return result.Val.(Owner), nil
	case <-ctx.Done():
		return Owner{}, ctx.Err()
	}
}

// Misdirected says that the instance answered that it isn't the user's owner: the next Route asks Redis.
func (r *Router) Misdirected(user string, owner Owner) {
	r.known.markStale(user, owner.Instance)
}

// answeredWait is how long an instance may take from closing its connections to saying that it has ended.
const answeredWait = 3 * time.Second

// Answered reports whether an owner that is gone has answered all requests that it had accepted, so that one which got
// no answer may be sent to another. An instance says so at its end; Answered waits for that, at most for 3 s.
func (r *Router) Answered(ctx context.Context, owner Owner) bool {
	ctx, cancel := context.WithTimeout(ctx, answeredWait)
	defer cancel()
	for !r.away.Load() {
		drains, err := r.redis.HGet(ctx, instanceKey(owner.Instance), "draining").Result()
		ended, endedErr := r.redis.Exists(ctx, endedKey(owner.Instance)).Result() // after it: both change at once
		if ended == 1 {
			return true
		}
		if err != nil || endedErr != nil || drains != "1" {
			return false // it has not ended by its own will, or says nothing
		}
		pause(ctx, 50*time.Millisecond)
	}
	return false
}

// claim asks Redis, waiting for a first instance if there is none yet.
func (r *Router) claim(ctx context.Context, user string) (Owner, error) {
	deadline := time.Now().Add(r.firstWait)
	for {
		answer, err := r.asker.ask(ctx, user)
		state, owner := answer.state, answer.owner
		if err != nil && ctx.Err() == nil {
			r.noteRedis(err)
		}
		switch {
		case err == nil && state == "owner":
			if r.avoids(owner.Instance) {
				r.evictIfUnreachable(ctx, owner.Instance, user)
				return Owner{}, ErrUnavailable
			}
			r.known.keep(user, owner)
			return owner, nil
		case err == nil && state == "draining":
			return Owner{}, ErrDraining
		case err == nil && state == "full":
			return Owner{}, ErrFull
		case err == nil && state == "none" && time.Now().Before(deadline):
			r.discover(ctx)
			pause(ctx, 100*time.Millisecond)
			continue
		}
		// Redis is away or settling. A known user is best served by the last owner: that instance, if it
		// lives, says so again as soon as it can.
		if owner, ok := r.known.guess(user); ok {
			owner.Outage = err != nil && r.away.Load()
			return owner, nil
		}
		return Owner{}, ErrUnavailable
	}
}

// claimed is what a claim came to.
type claimed struct {
	state string
	owner Owner
}

func (r *Router) claimAll(ctx context.Context, users []string) ([]claimed, error) {
	keys := []string{epochKey, candidatesKey, evictableKey}
	args := []any{LeaseTime.Milliseconds(), instanceKeys, ownerTTL.Milliseconds(), len(users)}
	for _, user := range users {
		keys, args = append(keys, ownerKey(user), homeKey(user)), append(args, random(8))
	}
	for _, id := range r.avoided() {
		args = append(args, id)
	}
	answer, err := claimScript.Run(ctx, r.redis, keys, args...).Slice()
	if err != nil {
		return nil, err
	}
	all := make([]claimed, len(answer))
	for i, one := range answer {
		fields, _ := one.([]any)
		if all[i], err = readClaimed(fields); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func readClaimed(fields []any) (c claimed, err error) {
	var wire string
	for i, to := range []*string{&c.state, &c.owner.Instance, &c.owner.Addr, &c.owner.Fingerprint, &wire} {
		if *to, err = text(fields, i); err != nil {
			return claimed{}, err
		}
	}
	if c.state == "owner" {
		c.owner.Wire, err = strconv.Atoi(wire)
	}
	return c, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
