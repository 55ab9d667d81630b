package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/api/run/v2"

	"claudepool/router"
)

const (
	// calmKey holds since when, in milliseconds of Redis's clock, the pool has been spare.
	calmKey = "claudepool:scaler:calm"
	// forget is how long it holds without a pass: nobody knows what the load was meanwhile.
	forget = 5 * time.Minute
)

// scaler sets the instance count of one worker pool.
type scaler struct {
	log    *slog.Logger
	redis  *redis.Client
	api    *run.Service
	pool   string // projects/P/locations/L/workerPools/N
	limits limits
	dryRun bool
}

// pass looks once and sets the count where it has to change. Passes may overlap: a count is absolute, and only one of
// them takes the calm that a smaller one needs. The count is asked for before the calm, so that one that sees another's
// smaller count finds that calm taken.
func (s *scaler) pass(ctx context.Context) error {
	f, err := s.look(ctx)
	if err != nil {
		return err
	}
	calm, err := s.calmFor(ctx, f.spare(s.limits))
	if err != nil {
		return err
	}
	count := decide(f, s.limits, calm)
	s.log.Info("pool looked at", "count", f.count, "wanted", count, "live", f.live, "capacity", f.capacity,
		"reserved", f.reserved, "calm", calm.String(), "dryRun", s.dryRun)
	if count == f.count || s.dryRun {
		return nil
	}
	if count < f.count && f.count <= s.limits.max {
		taken, err := s.redis.Del(ctx, calmKey).Result()
		if err != nil || taken == 0 {
			return err
		}
	}
	return s.set(ctx, count)
}

func (s *scaler) look(ctx context.Context) (fleet, error) {
	pool, err := s.api.Projects.Locations.WorkerPools.Get(s.pool).Context(ctx).Do()
	if err != nil {
		return fleet{}, fmt.Errorf("scaler: read the worker pool: %w", err)
	}
	if pool.Scaling == nil {
		return fleet{}, errors.New("scaler: the worker pool isn't scaled by hand")
	}
	instances, err := router.Instances(ctx, s.redis)
	if err != nil {
		return fleet{}, err
	}
	f := fleet{count: int(pool.Scaling.ManualInstanceCount), live: len(instances)}
	for _, i := range instances {
		f.capacity += i.Capacity
		f.reserved += i.Reserved
	}
	return f, nil
}

// calmFor notes whether the pool is spare now and returns for how long it has been. It stands in Redis because each
// pass is a process of its own; where Redis loses it the wait begins anew.
func (s *scaler) calmFor(ctx context.Context, spare bool) (time.Duration, error) {
	if !spare {
		return 0, s.redis.Del(ctx, calmKey).Err()
	}
	now, err := s.redis.Time(ctx).Result()
	if err != nil {
		return 0, err
	}
	pipe := s.redis.TxPipeline()
	pipe.SetNX(ctx, calmKey, now.UnixMilli(), forget)
	pipe.PExpire(ctx, calmKey, forget)
	since := pipe.Get(ctx, calmKey)
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, err
	}
	ms, err := strconv.ParseInt(since.Val(), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("scaler: %s holds no time", calmKey)
	}
	return now.Sub(time.UnixMilli(ms)), nil
}

// set asks the platform for a count. It doesn't wait until the instances are there; the next pass sees them.
func (s *scaler) set(ctx context.Context, count int) error {
	scaling := run.GoogleCloudRunV2WorkerPoolScaling{ManualInstanceCount: int64(count)}
	change := &run.GoogleCloudRunV2WorkerPool{Scaling: &scaling}
	operation, err := s.api.Projects.Locations.WorkerPools.Patch(s.pool, change).
		UpdateMask("scaling.manualInstanceCount").Context(ctx).Do()
	if err != nil {
		return fmt.Errorf("scaler: set the instance count: %w", err)
	}
	if operation.Error != nil {
		return fmt.Errorf("scaler: set the instance count: %s", operation.Error.Message)
	}
	return nil
}
