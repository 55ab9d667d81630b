package usage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

const (
	// copyEvery is how often one of the instances copies to Firestore what has been added to the sums.
	copyEvery = time.Hour
	// look is how often an instance looks whether that has to be done, and whether Redis has lost its sums.
	look = 5 * time.Second
	// storeAtOnce is how many documents are written at a time.
	storeAtOnce = 16
)

// Record is what a Store keeps of a subject's day.
type Record struct {
	Subject string           `firestore:"subject"`
	Day     string           `firestore:"day"`
	Sums    map[string]int64 `firestore:"sums"`
	Expires time.Time        `firestore:"expires_at"`
}

// Store outlives Redis. Its methods may be called concurrently.
type Store interface {
	Put(ctx context.Context, r Record) error
	// Each calls f with all records of the day and of later ones, and ends with f's error.
	Each(ctx context.Context, from string, f func(Record) error) error
}

// Keeper copies sums to a Store and brings them back when Redis has lost them.
type Keeper struct {
	redis Redis
	store Store // nil: there is none
	log   *slog.Logger
	look  time.Duration
}

// NewKeeper returns a Keeper whose Run has to be called. A nil store keeps nothing.
func NewKeeper(client Redis, store Store, log *slog.Logger) *Keeper {
	return &Keeper{redis: client, store: store, log: log, look: look}
}

// Run keeps sums until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for failed := false; ctx.Err() == nil; rest(ctx, k.look) {
		err := k.step(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			k.log.Warn("usage is not kept beyond Redis now", "error", err)
		}
		failed = err != nil
	}
}

func (k *Keeper) step(ctx context.Context) error {
	era, err := k.redis.Get(ctx, wholeKey).Result()
	if errors.Is(err, redis.Nil) {
		return k.restore(ctx)
	}
	if err != nil || k.store == nil {
		return err
	}
	mine, err := k.redis.SetNX(ctx, copiedKey, "1", copyEvery).Result()
	if err != nil || !mine {
		return err
	}
	if err = k.copy(ctx, era); err != nil {
		_ = k.redis.Del(context.WithoutCancel(ctx), copiedKey).Err() // for whoever looks next
	}
	return err
}

// restore adds what the Store has to what came since Redis lost its sums.
func (k *Keeper) restore(ctx context.Context) error {
	count := 0
	if k.store != nil {
		err := k.store.Each(ctx, Day(time.Now().AddDate(0, 0, 1-KeepDays)), func(r Record) error {
			args := []any{keep.Milliseconds(), sumsKey(r.Day, ""), r.Day, r.Subject}
			for field, n := range r.Sums {
				args = append(args, field, n)
			}
			keys := []string{wholeKey, restoredKey, heirsKey, uncopiedKey, subjectsKey(r.Day)}
			count++
			return restoreScript.Run(ctx, k.redis, keys, args...).Err()
		})
		if err != nil {
			return err
		}
	}
	if count > 0 {
		k.log.Warn("Redis had lost users' usage, which is back as of the last copy", "records", count)
	}
	_, err := k.redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.SetNX(ctx, wholeKey, rand.Text(), 0) // from here on what another instance has read counts for nothing
		p.Unlink(ctx, restoredKey, heirsKey)
		return nil
	})
	return err
}

// copy copies to the Store what has been added since the last time. era says that Redis has lost nothing since.
func (k *Keeper) copy(ctx context.Context, era string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(storeAtOnce)
	iter := k.redis.HScan(ctx, uncopiedKey, 0, "", 1000).Iterator()
	for iter.Next(ctx) && ctx.Err() == nil {
		name := iter.Val()
		group.Go(func() error { return k.copyOne(ctx, era, name) })
		iter.Next(ctx) // over the value, which may be another one by then
	}
	return errors.Join(group.Wait(), iter.Err())
}

var errLost = errors.New("usage: Redis has lost its sums")

func (k *Keeper) copyOne(ctx context.Context, era, name string) error {
	day, subject, ok := strings.Cut(name, " ")
	if !ok {
		return k.redis.HDel(ctx, uncopiedKey, name).Err()
	}
	var now, added *redis.StringCmd
	var sums *redis.MapStringStringCmd
	_, err := k.redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		now, added = p.Get(ctx, wholeKey), p.HGet(ctx, uncopiedKey, name)
		sums = p.HGetAll(ctx, sumsKey(day, subject))
		return nil
	})
	switch {
	case now.Val() != era && (err == nil || errors.Is(err, redis.Nil)):
		return errLost // what is there is less than what the Store has
	case errors.Is(err, redis.Nil):
		return nil // another instance has copied it
	case err != nil:
		return err
	}
	record := Record{Subject: subject, Day: day, Sums: make(map[string]int64)}
	for field, text := range sums.Val() {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			record.Sums[field] = n
		}
	}
	if err = k.put(ctx, record); err != nil {
		return err
	}
	return copiedScript.Run(ctx, k.redis, []string{uncopiedKey}, name, added.Val()).Err()
}

// put stores a record, unless its day is over for so long that nothing is kept of it.
func (k *Keeper) put(ctx context.Context, r Record) error {
	if len(r.Sums) == 0 {
		return nil
	}
	day, err := time.Parse(time.DateOnly, r.Day)
	if err != nil {
		return fmt.Errorf("usage: %w", err)
	}
	r.Expires = day.AddDate(0, 0, KeepDays+1)
	return k.store.Put(ctx, r)
}
