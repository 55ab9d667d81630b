package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	pingInterval = time.Second
	// reachTimeout bounds an attempt to reach an instance; one that is silent mustn't keep a front from looking after
	// others.
	reachTimeout = 2 * time.Second
	// warmInstances is how many instances a front keeps a connection to that nobody has used yet, and rewarmAfter how long
	// one may be idle; see also IdleConnTimeout in package function.
	warmInstances = 64
	rewarmAfter   = 4 * time.Minute
)

// Run watches Redis, makes new instances placeable and keeps connections to instances until ctx is done.
func (r *Router) Run(ctx context.Context) {
	var all sync.WaitGroup
	// an instance that is silent mustn't hide what Redis does
	for _, do := range []func(context.Context){r.pingRedis, r.keepWarm, r.dialAvoided} {
		all.Go(func() { repeat(ctx, do) })
	}
	all.Wait()
}

func repeat(ctx context.Context, do func(context.Context)) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		do(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pingRedis finds out whether Redis can be reached.
func (r *Router) pingRedis(ctx context.Context) {
	pingCtx, cancel := context.WithTimeout(ctx, pingInterval/2)
	defer cancel()
	err := r.redis.Ping(pingCtx).Err()
	if ctx.Err() != nil {
		return
	}
	r.noteRedis(err)
	if err == nil {
		r.discover(ctx)
	}
}

// noteRedis keeps whether Redis could be reached, and tells the log when that changes.
func (r *Router) noteRedis(err error) {
	if was := r.away.Swap(err != nil); was == (err != nil) {
		return
	}
	if err != nil {
		r.opts.Logger.Error("Redis is away: known users are served on, new ones are refused", "error", err)
	} else {
		r.opts.Logger.Info("Redis is back")
	}
}

// discover reaches instances that no front has reached yet: the first connection on a VPC can take a minute, and no
// user shall wait for it.
func (r *Router) discover(ctx context.Context) {
	ids, err := r.redis.SMembers(ctx, pendingKey).Result()
	if err != nil {
		return
	}
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() { r.makePlaceable(ctx, id) })
	}
	all.Wait()
}

// makePlaceable makes an instance one that users are placed on, once it has been reached.
func (r *Router) makePlaceable(ctx context.Context, id string) {
	err := r.reach(ctx, id)
	if errors.Is(err, errNoLease) {
		r.redis.SRem(ctx, pendingKey, id) // it registers again if it isn't gone
	}
	if err != nil {
		return
	}
	keys := []string{pendingKey, candidatesKey, evictableKey, instanceKey(id)}
	if err := placeScript.Run(ctx, r.redis, keys, id).Err(); err == nil {
		r.opts.Logger.Info("instance is placeable", "instance", id)
	}
}

// keepWarm reaches the instances that users will be placed on next, each time before a connection would be closed for
// having been idle, and removes those that are dead.
func (r *Router) keepWarm(ctx context.Context) {
	living, err := r.findLiving(ctx)
	if err != nil {
		return
	}
	now := time.Now()
	maps.DeleteFunc(r.reached, func(_ string, at time.Time) bool { return now.Sub(at) > rewarmAfter })
	cold := slices.DeleteFunc(slices.Clone(living), func(o Owner) bool { _, warm := r.reached[o.Instance]; return warm })
	var mu sync.Mutex // guards reached
	var all sync.WaitGroup
	for _, o := range cold {
		all.Go(func() {
			if r.reach(ctx, o.Instance) == nil {
				mu.Lock()
				defer mu.Unlock()
				r.reached[o.Instance] = now
			}
		})
	}
	all.Wait()
}

var (
	errNoLease   = errors.New("router: the instance has no lease")
	errUnreached = errors.New("router: the instance can't be reached")
)

// reach reaches an instance; the error is errNoLease if it isn't one any more, errUnreached if it doesn't answer.
func (r *Router) reach(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	known, err := r.redis.HMGet(ctx, instanceKey(id), "addr", "fingerprint").Result()
	if err != nil {
		return err
	}
	addr, found := known[0].(string)
	if !found {
		return errNoLease
	}
	fingerprint, _ := known[1].(string)
	if err := r.opts.Reach(ctx, Owner{Instance: id, Addr: addr, Fingerprint: fingerprint}); err != nil {
		return fmt.Errorf("%w: %w", errUnreached, err)
	}
	return nil
}
