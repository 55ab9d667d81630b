package router

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Instance is what an instance said of itself at its last life sign.
type Instance struct {
	ID       string
	Capacity int // processes
	Reserved int // processes, and places promised to users who are being placed; all of one where nobody can begin
}

// Instances lists, ordered by id, the instances that live and take users: those which drain are left out, their users
// are on their way to others. It takes two round trips, however many users there are.
func Instances(ctx context.Context, client Redis) ([]Instance, error) {
	var candidates, pending *redis.StringSliceCmd
	_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		candidates, pending = pipe.ZRange(ctx, candidatesKey, 0, -1), pipe.SMembers(ctx, pendingKey)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("router: list instances: %w", err)
	}
	ids := append(candidates.Val(), pending.Val()...)
	slices.Sort(ids)
	ids = slices.Compact(ids) // one may have been dialled between the two questions

	hashes := make([]*redis.SliceCmd, len(ids))
	_, err = client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			hashes[i] = pipe.HMGet(ctx, instanceKey(id), "capacity", "reserved", "draining", "full")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("router: list instances: %w", err)
	}
	var list []Instance
	for i, id := range ids {
		instance, ok := readInstance(id, hashes[i].Val())
		if ok {
			list = append(list, instance)
		}
	}
	return list, nil
}

// readInstance is false for one whose hash has expired, which drains, or whose numbers make no sense.
func readInstance(id string, fields []any) (Instance, bool) {
	if len(fields) != 4 || fields[2] != "0" {
		return Instance{}, false
	}
	capacity, _ := fields[0].(string)
	reserved, _ := fields[1].(string)
	c, err := strconv.Atoi(capacity)
	if err != nil || c <= 0 {
		return Instance{}, false
	}
	r, err := strconv.Atoi(reserved)
	if fields[3] == "1" {
		r = max(r, c)
	}
	return Instance{ID: id, Capacity: c, Reserved: r}, err == nil && r >= 0
}
