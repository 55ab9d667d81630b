package settings

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBudget_IsDollarsInDays(t *testing.T) {
	for text, want := range map[string]Budget{"5usd/d": {5e9, 1}, " 200usd/30d ": {200e9, 30}, "0.25usd/7d": {25e7, 7},
		"0.000001usd/1d": {1000, 1}} {
		pool, err := LoadPool([]string{hopKey, "BUDGET_USER=" + text, "BUDGET_KEY=" + text})
		require.NoError(t, err, text)
		require.Equal(t, want, pool.BudgetUser)
		require.Equal(t, want, pool.BudgetKey)
	}
	for _, text := range []string{"5", "5usd", "usd/d", "5usd/0d", "5usd/32d", "5usd/h", "-5usd/d", "0usd/d", "5eur/d",
		"1e3usd/d", "0.0000001usd/d", "99999999usd/d", ".5usd/d"} {
		_, err := LoadPool([]string{hopKey, "BUDGET_USER=" + text})
		require.ErrorContains(t, err, "BUDGET_USER must be dollars", text)
	}
	require.Equal(t, "0.5 USD a day", Budget{5e8, 1}.String())
	require.Equal(t, "200 USD in 30 days", Budget{200e9, 30}.String())
}
