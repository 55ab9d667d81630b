package usage

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/prices"
	"claudepool/infra/testkit"
)

// patience is how long a busy machine may take for what others do at once.
const patience = 30 * time.Second

// world is a Redis with a ledger and a reader.
type world struct {
	t      *testing.T
	redis  *redis.Client
	ledger *Ledger
	reader *Reader
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, testkit.Redis(t))
}

func newWorldAt(t *testing.T, addr string) *world {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ReadTimeout: time.Second,
		DialTimeout: time.Second, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = client.Close() })
	require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, patience, time.Millisecond)
	w := &world{t: t, redis: client, reader: NewReader(client)}
	w.ledger = w.newLedger()
	return w
}

// newLedger is that of another instance.
func (w *world) newLedger() *Ledger {
	l := NewLedger(w.redis, slog.New(slog.DiscardHandler))
	l.pause = time.Millisecond
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx)
	}()
	w.t.Cleanup(func() {
		stop()
		<-ended
	})
	return l
}

// whole says that nothing is missing in Redis.
func (w *world) whole() *world {
	require.NoError(w.t, w.redis.Set(w.t.Context(), wholeKey, "1", 0).Err())
	return w
}

func (w *world) flush() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	w.ledger.Close(ctx)
	require.NoError(w.t, w.ledger.Flush(ctx))
}

// today is what a user's turns took today.
func (w *world) today(user string) (sum Sum) {
	w.t.Helper()
	rows, err := w.reader.Of(w.t.Context(), user, []string{Day(time.Now())})
	require.NoError(w.t, err)
	for _, r := range rows {
		sum.Add(r.Sum)
	}
	return sum
}

// took are sums of one call.
func took(model string, input int64) Sums {
	return Sums{{model, Of(prices.Call{Model: model, Input: input, Output: 2, CacheRead: 3, CacheWrite5m: 4,
		CacheWrite1h: 5, WebSearches: 6})}}
}

const ada, bob, model = "0123456789abcdef", "fedcba9876543210", "claude-haiku-5-5"

func TestLedger_SumsByUserDayAndModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t).whole()
	w.ledger.Add(ada, "", append(took(model, 10), took("claude-opus-5-5", 100)...))
	w.ledger.Add(ada, "aa", took(model, 20))
	w.newLedger().Add(bob, "aa", took(model, 1))
	w.flush()
	require.Eventually(t, func() bool { return w.today(bob).Calls == 1 }, patience, time.Millisecond)
	rows, err := w.reader.Of(t.Context(), ada, Days("2026-01-01", "2026-01-03"))
	require.NoError(t, err)
	require.Empty(t, rows)
	day := Day(time.Now())
	rows, err = w.reader.Of(t.Context(), ada, []string{day})
	require.NoError(t, err)
	of := Sum{2, 30, 4, 6, 8, 10, 12, prices.Cost(prices.Call{Model: model, Input: 30, Output: 4, CacheRead: 6,
		CacheWrite5m: 8, CacheWrite1h: 10, WebSearches: 12})}
	require.Equal(t, []Row{{day, ada, "", ModelSum{model, of}},
		{day, ada, "", took("claude-opus-5-5", 100)[0]}}, rows)
	all, next, err := w.reader.All(t.Context(), []string{day}, "", 10)
	require.NoError(t, err)
	require.Empty(t, next)
	require.Len(t, all, 4)
	require.Equal(t, Row{day, bob, "", took(model, 1)[0]}, all[2])
	require.EqualValues(t, 21, all[3].Input, "of the key")
	require.Equal(t, "aa", all[3].Key)
	first, next, err := w.reader.All(t.Context(), []string{day}, "", 1)
	require.NoError(t, err)
	require.Equal(t, all[:2], first)
	rest, next, err := w.reader.All(t.Context(), []string{day}, next, 2)
	require.NoError(t, err)
	require.Equal(t, all[2:], rest)
	require.Empty(t, next)
	spent, err := w.reader.Spent(t.Context(), OfKey("aa"), 3)
	require.NoError(t, err)
	require.Equal(t, []int64{all[3].Cost, 0, 0}, spent)
	for _, key := range append(w.redis.Keys(t.Context(), prefix+"s*").Val(), uncopiedKey) {
		require.Greater(t, w.redis.PTTL(t.Context(), key).Val(), time.Hour, "%s ends", key)
	}
}

// A command whose answer was lost is sent again.
func TestLedger_AnEntryThatIsWrittenAgainCountsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t).whole()
	e := entry{number: 1, day: Day(time.Now()), user: ada, sums: took(model, 10)}
	for range 3 {
		require.NoError(t, w.ledger.write(t.Context(), e))
	}
	late := e
	e.number = 2
	require.NoError(t, w.ledger.write(t.Context(), e))
	require.NoError(t, w.ledger.write(t.Context(), late), "that of a connection that was given up")
	require.EqualValues(t, 20, w.today(ada).Input)
}

func TestLedger_WaitsForARedisThatIsAway(t *testing.T) {
	t.Parallel()
	relay, err := testkit.NewRelay(testkit.Redis(t))
	require.NoError(t, err)
	t.Cleanup(relay.Close)
	w := newWorldAt(t, relay.Addr()).whole()
	w.ledger.Add(ada, "", took(model, 1))
	w.flush()
	relay.Reset(true)
	for range 100 {
		w.ledger.Add(ada, "", took(model, 1))
	}
	require.Eventually(t, func() bool { return w.ledger.Flush(t.Context()) == errAway }, patience, time.Millisecond)
	relay.Mend()
	w.flush()
	require.EqualValues(t, 101, w.today(ada).Input)
}

func TestLedger_ABacklogHasABound(t *testing.T) {
	t.Parallel()
	l := NewLedger(nil, slog.New(slog.DiscardHandler))
	for range maxBacklog + 10 {
		l.Add(ada, "", nil)
	}
	require.Len(t, l.queue, maxBacklog)
	require.Equal(t, 10, l.lost)
}

// What Redis refuses must not hold up everybody else's.
func TestLedger_WhatRedisWillNeverTakeIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t).whole()
	require.NoError(t, w.redis.Set(t.Context(), sumsKey(Day(time.Now()), ada), "no hash", 0).Err())
	w.ledger.Add(ada, "", took(model, 1))
	w.ledger.Add(bob, "", took(model, 1))
	w.flush()
	require.EqualValues(t, 1, w.today(bob).Input)
}

// answer is an error of Redis'.
type answer string

func (a answer) Error() string { return string(a) }
func (answer) RedisError()     {}

func TestLedger_TriesAgainWhatRedisRefusesForNow(t *testing.T) {
	t.Parallel()
	for _, passes := range []answer{"ERR max number of clients reached", "LOADING Redis is loading the dataset in memory",
		"OOM command not allowed"} {
		require.NotErrorAs(t, final(passes), new(refused), passes)
	}
	for _, stays := range []answer{"ERR unknown command", "WRONGTYPE Operation against a key"} {
		require.ErrorAs(t, final(stays), new(refused), stays)
	}
}

func TestLedger_SumsFollowAUserToANewToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t).whole()
	w.ledger.Add(ada, "", took(model, 10))
	w.ledger.Add(bob, "", took(model, 1))
	w.ledger.Move(ada, bob)
	w.ledger.Add(ada, "", took(model, 100)) // of a call that was begun before
	w.flush()
	require.Zero(t, w.today(ada))
	require.EqualValues(t, 111, w.today(bob).Input)
	all, _, err := w.reader.All(t.Context(), []string{Day(time.Now())}, "", 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, all[0].Cost, must(w.reader.Spent(t.Context(), bob, 1))[0])
}

// Or whoever has two tokens would have as many budgets as there is patience.
func TestLedger_ABudgetDoesNotBeginAnewWhenSumsMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t).whole()
	one := took(model, 10)[0].Cost
	spent := func(user string) int64 {
		w.flush()
		return must(w.reader.Spent(t.Context(), user, 1))[0] / one
	}
	w.ledger.Add(ada, "", took(model, 10))
	w.ledger.Move(ada, bob)
	require.Equal(t, bob, w.ledger.Present(ada))
	require.EqualValues(t, 1, spent(ada))
	require.EqualValues(t, 1, spent(bob))
	w.ledger.Move(ada, bob)
	require.EqualValues(t, 1, spent(ada))
	w.ledger.moves = nil // some minutes later
	w.ledger.Add(ada, "", took(model, 10))
	require.EqualValues(t, 2, spent(ada))
	w.ledger.Move(ada, bob)
	require.EqualValues(t, 2, spent(ada))
	require.EqualValues(t, 2, spent(bob))
	w.ledger.Move(bob, ada)
	require.Equal(t, ada, w.ledger.Present(bob))
	require.EqualValues(t, 2, spent(ada), "it isn't counted twice when it comes back")
	require.EqualValues(t, 2, spent(bob))
	require.EqualValues(t, 2, w.today(ada).Calls)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestDays_AreThoseFromTheFirstToTheLast(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"2026-02-27", "2026-02-28", "2026-03-01"}, Days("2026-02-27", "2026-03-01"))
	require.Empty(t, Days("2026-03-02", "2026-03-01"))
	require.Empty(t, Days("never", "2026-03-01"))
	require.Len(t, Days("2020-01-01", "2026-03-01"), KeepDays+1)
}
