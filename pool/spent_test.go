package pool

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/settings"
	"claudepool/infra/usage"
	"claudepool/pool/api"
)

func TestBudgets_ARequestsOwnIsWhatItSays(t *testing.T) {
	t.Parallel()
	dollars := 4.1
	err := ownLimitsOf(&api.Request{MaxBudgetUSD: &dollars}).check(4_100_000_000, 0, true)
	require.EqualError(t, err, "max_budget_usd: the request has spent its 4.1 dollars")
}

// Every call would wait for an answer that doesn't come.
func TestBudgets_ARedisThatIsAwayIsAskedNowAndThen(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	dial := func(context.Context, string, string) (net.Conn, error) {
		asked.Add(1)
		return nil, errors.New("away")
	}
	client := redis.NewClient(&redis.Options{MaxRetries: -1, Dialer: dial, DialerRetries: 1})
	t.Cleanup(func() { _ = client.Close() })
	b := &budgets{user: settings.Budget{Nano: 1, Days: 1}, ledger: usage.NewLedger(client, slog.New(slog.DiscardHandler)),
		reader: usage.NewReader(client)}
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	require.Nil(t, b.check(gone, "ada", ""))
	require.Zero(t, b.askAgain.Load(), "who has gone says nothing of Redis")
	asks := func() bool {
		before := asked.Load()
		require.Nil(t, b.check(t.Context(), "ada", ""))
		return asked.Load() > before
	}
	require.True(t, asks())
	require.False(t, asks())
	b.askAgain.Store(1) // some seconds later
	require.True(t, asks())
	require.False(t, asks())
}

func TestBudgets_OneIsSpentUntilEnoughOfItIsLongAgo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spent []int64 // today first
		days  int
	}{
		{[]int64{9}, 0}, {[]int64{10}, 1}, {[]int64{25}, 1},
		{[]int64{9, 0, 0}, 0}, {[]int64{4, 0, 6}, 1}, {[]int64{4, 6, 0}, 2}, {[]int64{10, 0, 0}, 3}, {[]int64{0, 4, 30}, 1},
	} {
		require.Equal(t, c.days, spentFor(c.spent, 10), c.spent)
	}
}
