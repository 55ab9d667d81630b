package router

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
)

// Sample returns up to n of the instances that users will be placed on next, in random order, for what any instance can
// answer. It claims nothing and asks nobody: they are those of a moment ago, or of when Redis was last there.
func (r *Router) Sample(n int) []Owner {
	all := r.living.Load()
	if all == nil {
		return nil
	}
	some := slices.DeleteFunc(slices.Clone(*all), func(o Owner) bool { return r.avoids(o.Instance) })
	rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some[:min(n, len(some))]
}

// findLiving asks Redis for the instances that users will be placed on next, and removes those that are dead.
func (r *Router) findLiving(ctx context.Context) ([]Owner, error) {
	keys := []string{candidatesKey, evictableKey}
	answer, err := livingScript.Run(ctx, r.redis, keys, instanceKeys, warmInstances).Slice()
	if err != nil {
		return nil, err
	}
	all := make([]Owner, len(answer))
	for i, one := range answer {
		fields, _ := one.([]any)
		if all[i], err = readLiving(fields); err != nil {
			return nil, err
		}
	}
	r.living.Store(&all)
	return all, nil
}

func readLiving(fields []any) (o Owner, err error) {
	var wire string
	for i, to := range []*string{&o.Instance, &o.Addr, &o.Fingerprint, &wire} {
		if *to, err = text(fields, i); err != nil {
			return Owner{}, err
		}
	}
	o.Wire, err = strconv.Atoi(wire)
	return o, err
}
