package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

func TestScale_ServesEverybodyThroughALossAndADeploy(t *testing.T) {
	need.Program(t, "redis-server")
	url, stop, err := startRedis(t.Context(), t.TempDir())
	require.NoError(t, err)
	defer stop()
	n := sizes{users: 600, instances: 10, fronts: 3, capacity: 90, workers: 8, lost: 0.2, deployed: 1, batch: 4,
		steady: time.Millisecond}
	r, err := simulate(t.Context(), url, n)
	require.NoError(t, err, "nobody is lost")

	require.Zero(t, r.warm, "a warm request asks Redis nothing")
	commands := map[string]float64{}
	for _, row := range r.rows {
		commands[row.name] = float64(row.requested) / float64(max(row.users, 1))
	}
	// There are fewer where users are asked for together. What is above the whole numbers are connections that a busy
	// moment adds to a front's, each of which says hello.
	requireScripts := func(phase string, n float64) {
		require.Positive(t, commands[phase], phase)
		require.Less(t, commands[phase], n+0.5, phase)
	}
	requireScripts("new users", 2)                    // a claim, and the instance's question whether it is so
	requireScripts("warm requests, another front", 1) // a claim
	require.Less(t, commands["users of lost instances are placed again"], 5.0)
	for _, at := range r.balance {
		require.Less(t, at.value, 1.5, at.name)
	}
}

func TestScale_ReportsEachPhase(t *testing.T) {
	r := &results{rows: []row{{name: "new users", users: 10, took: time.Second, requested: 20, cpu: time.Millisecond}}}
	text := r.markdown("go run ./infra/scale", sizes{users: 10})
	require.Contains(t, text, "| new users | 10 | 1.0 | 10 | 2.00 | 0 | 100.0 |")
}
