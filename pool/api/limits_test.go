package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDecode_ARequestsOwnLimits(t *testing.T) {
	t.Parallel()
	const head = `{"api_key":"12345678","messages":[{"role":"user","content":"hi"}]`
	for _, wrong := range []string{`"max_budget_usd":0`, `"max_budget_usd":-1`, `"max_budget_usd":1e9`,
		`"max_budget_usd":"1"`, `"max_turns":0`, `"max_turns":1.5`, `"max_turns":2000000`} {
		_, err := Decode([]byte(head + "," + wrong + "}"))
		require.Equal(t, 400, Known(err).Status, wrong)
		require.Contains(t, err.Error(), "max_", wrong)
	}
	req, err := Decode([]byte(head + `,"max_budget_usd":0.25,"max_turns":7}`))
	require.NoError(t, err)
	require.Equal(t, 0.25, *req.MaxBudgetUSD)
	require.Equal(t, 7, *req.MaxTurns)
}
