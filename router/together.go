package router

import (
	"context"
	"time"
)

// formerTTL is how long a user stays placed that was placed only to be given up. It is enough to move conversations.
const formerTTL = 5 * time.Minute

// RouteTogether is Route for a user who was another one before: both get the same owner, which can make one of them.
// A user without an owner gets that of the other, whether it has room or not. If each has one, the former user is given
// up by its own as soon as its turns have ended; until then the error is ErrDraining.
func (r *Router) RouteTogether(ctx context.Context, user, former string) (Owner, error) {
	present, known := r.known.owner(user)
	past, knownToo := r.known.owner(former)
	if known && knownToo && present.Instance == past.Instance {
		return r.Route(ctx, user)
	}
	instance, err := r.bringTogether(ctx, user, former)
	if err != nil {
		return Owner{}, err
	}
	if known && present.Instance != instance {
		r.known.forget(user)
	}
	owner, err := r.Route(ctx, user)
	if err == nil {
		r.known.keep(former, owner)
	}
	return owner, err
}

func (r *Router) bringTogether(ctx context.Context, user, former string) (instance string, err error) {
	for range 2 {
		state, instance, err := r.askTogether(ctx, user, former)
		if err != nil {
			if ctx.Err() == nil {
				r.noteRedis(err)
			}
			return "", ErrUnavailable
		}
		switch state {
		case "together":
			return instance, nil
		case "draining":
			return "", ErrDraining
		case "apart":
			r.requestEviction(ctx, instance, former)
			return "", ErrDraining
		case "settling":
			return "", ErrUnavailable
		}
		r.known.forget(user) // it has no owner
		if _, err := r.Route(ctx, user); err != nil {
			return "", err
		}
	}
	return "", ErrUnavailable
}

func (r *Router) askTogether(ctx context.Context, user, former string) (state, instance string, err error) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	answer, err := togetherScript.Run(ctx, r.redis, []string{epochKey, ownerKey(user), ownerKey(former)},
		LeaseTime.Milliseconds(),
		instanceKeys, random(8), ownerTTL.Milliseconds(), formerTTL.Milliseconds()).Slice()
	if err != nil {
		return "", "", err
	}
	if state, err = text(answer, 0); err != nil {
		return "", "", err
	}
	instance, err = text(answer, 1)
	return state, instance, err
}

// requestEviction asks an instance to give a user up. It is a request: the lease decides.
func (r *Router) requestEviction(ctx context.Context, instance, user string) {
	pipe := r.redis.Pipeline()
	pipe.SAdd(ctx, evictKey(instance), user)
	pipe.PExpire(ctx, evictKey(instance), LeaseTime)
	_, _ = pipe.Exec(ctx)
}
