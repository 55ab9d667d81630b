package pool

import (
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

func TestBudgets_ARequestsOwnIsWhatItSays(t *testing.T) {
	t.Parallel()
	dollars := 4.1
	err := ownLimitsOf(&api.Request{MaxBudgetUSD: &dollars}).check(4_100_000_000, 0, true)
	require.EqualError(t, err, "max_budget_usd: the request has spent its 4.1 dollars")
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
