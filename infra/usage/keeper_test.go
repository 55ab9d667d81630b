package usage

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/emulator"
)

// newKeeper is an instance's, with a Firestore that is the test's own.
func (w *world) newKeeper(project string) *Keeper {
	client, err := emulator.Connect(w.t.Context(), emulator.Addr(w.t), project)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = client.Close() })
	return NewKeeper(w.redis, &Firestore{client}, slog.New(slog.DiscardHandler))
}

// anHourLater has the sums be copied.
func (w *world) anHourLater(k *Keeper) {
	w.t.Helper()
	require.NoError(w.t, w.redis.Del(w.t.Context(), copiedKey).Err())
	require.NoError(w.t, k.step(w.t.Context()))
}

func TestKeeper_WhatRedisLosesComesBackAsOfTheLastHour(t *testing.T) {
	t.Parallel()
	w, project := newWorld(t), "test-"+strings.ToLower(rand.Text())
	k := w.newKeeper(project)
	_, err := w.reader.Of(t.Context(), ada, []string{Day(time.Now())})
	require.ErrorIs(t, err, ErrRestoring)
	_, err = w.reader.Spent(t.Context(), ada, 1)
	require.ErrorIs(t, err, ErrRestoring)
	require.NoError(t, k.step(t.Context()), "Firestore has nothing")
	w.ledger.Add(ada, "", took(model, 10))
	w.ledger.Add(bob, "aa", took(model, 1))
	w.flush()
	w.anHourLater(k)
	require.Zero(t, w.redis.Exists(t.Context(), uncopiedKey).Val(), "all is copied")
	w.ledger.Add(ada, "", took(model, 1000)) // in the hour after
	w.flush()

	require.NoError(t, w.redis.FlushAll(t.Context()).Err())
	w.ledger.Add(ada, "", took(model, 5)) // before anybody has noticed
	w.flush()
	require.ErrorIs(t, k.copyOne(t.Context(), "1", Day(time.Now())+" "+ada), errLost)
	require.NoError(t, k.step(t.Context()))
	require.EqualValues(t, 15, w.today(ada).Input)
	require.EqualValues(t, 1, w.today(bob).Input)
	w.anHourLater(k)
	require.NoError(t, w.redis.FlushAll(t.Context()).Err())
	require.NoError(t, k.step(t.Context()))
	require.EqualValues(t, 15, w.today(ada).Input, "what came back is copied again")
}

func TestKeeper_RestoresOnce(t *testing.T) {
	t.Parallel()
	w, project := newWorld(t), "test-"+strings.ToLower(rand.Text())
	k, other := w.newKeeper(project), w.newKeeper(project)
	require.NoError(t, k.step(t.Context()))
	for i := range 40 { // of several pages' worth of places
		w.ledger.Add(fmt.Sprintf("%016x", i), "", took(model, 10))
	}
	w.flush()
	w.anHourLater(k)
	require.NoError(t, w.redis.FlushAll(t.Context()).Err())
	w.ledger.Add(fmt.Sprintf("%016x", 3), "", took(model, 5))
	w.flush()
	done := make(chan error)
	for _, one := range []*Keeper{k, other} {
		go func() { done <- one.step(t.Context()) }()
	}
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	for i := range 40 {
		want := int64(10)
		if i == 3 {
			want = 15
		}
		require.Equal(t, want, w.today(fmt.Sprintf("%016x", i)).Input)
	}
	all, _, err := w.reader.All(t.Context(), []string{Day(time.Now())}, "", 100)
	require.NoError(t, err)
	require.Len(t, all, 40)
}

// One that is slow reads what the first one's instances have copied since.
func TestKeeper_NothingComesBackOnceAllIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	slow := &lateStore{rest: func() {
		require.NoError(t, NewKeeper(w.redis, nil, slog.New(slog.DiscardHandler)).step(t.Context()))
		w.ledger.Add(ada, "", took(model, 10))
		w.flush()
	}}
	require.NoError(t, NewKeeper(w.redis, slow, slog.New(slog.DiscardHandler)).step(t.Context()))
	require.EqualValues(t, 10, w.today(ada).Input)
}

// lateStore is a Store that has ada's ten tokens after a rest.
type lateStore struct {
	Store
	rest func()
}

func (s *lateStore) Each(_ context.Context, _ string, f func(Record) error) error {
	s.rest()
	return f(Record{Subject: ada, Day: Day(time.Now()), Sums: map[string]int64{model + ":input": 10}})
}

func TestKeeper_WhatComesBackOfAFormerUserIsThePresentOnes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	day := Day(time.Now())
	store := &lateStore{rest: func() {
		w.ledger.Add(ada, "", took(model, 5))
		w.ledger.Move(ada, "c")
		w.ledger.Move("c", bob)
		w.flush()
	}}
	require.NoError(t, NewKeeper(w.redis, store, slog.New(slog.DiscardHandler)).step(t.Context()))
	require.Zero(t, w.today(ada))
	require.EqualValues(t, 15, w.today(bob).Input)
	all, _, err := w.reader.All(t.Context(), []string{day}, "", 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
	for _, user := range []string{ada, bob} {
		require.True(t, w.redis.HExists(t.Context(), uncopiedKey, day+" "+user).Val(), "Firestore is told")
	}
	require.Zero(t, w.redis.Exists(t.Context(), heirsKey, restoredKey).Val())
}

func TestKeeper_FirestoreForgetsAFormerUser(t *testing.T) {
	t.Parallel()
	w, project := newWorld(t), "test-"+strings.ToLower(rand.Text())
	k := w.newKeeper(project)
	require.NoError(t, k.step(t.Context()))
	w.ledger.Add(ada, "", took(model, 10))
	w.flush()
	w.anHourLater(k)
	w.ledger.Move(ada, bob)
	w.flush()
	w.anHourLater(k)
	var kept []Record
	require.NoError(t, k.store.Each(t.Context(), "2026-01-01", func(r Record) error {
		kept = append(kept, r)
		return nil
	}))
	require.Len(t, kept, 2)
	require.Equal(t, map[string]int64{movedField: took(model, 10)[0].Cost}, kept[0].Sums, "but not what was spent")
	require.Equal(t, bob, kept[1].Subject)
	require.True(t, kept[0].Expires.After(time.Now()))
	require.NoError(t, w.redis.FlushAll(t.Context()).Err())
	require.NoError(t, k.step(t.Context()))
	require.Zero(t, w.today(ada))
	require.EqualValues(t, 10, w.today(bob).Input)
	require.Equal(t, kept[0].Sums[movedField], must(w.reader.Spent(t.Context(), ada, 1))[0])
}
