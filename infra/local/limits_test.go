package main

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testLimits has a greedy user ask through two fronts that limit users, and a modest one beside it.
func testLimits(t *testing.T, d *deployment) {
	const limit, greed, share = 10, 1000, 9
	d.env = append(d.env, fmt.Sprintf("RATE_LIMIT_USER=%d/h", limit))
	first := len(d.fronts)
	d.front()
	d.front()
	latency := func(user string) time.Duration {
		requireAnswer(t, d.ask(first, user, "hello"), "hello") // makes the process
		took := make([]time.Duration, share)
		for i := range took {
			began := time.Now()
			requireAnswer(t, d.ask(first+i%2, user, "again"), "again")
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		return took[share/2]
	}
	alone := latency("modest-alone")

	statuses := make([]int, greed)
	var wg sync.WaitGroup
	for i := range statuses {
		wg.Go(func() { statuses[i] = d.ask(first+i%2, "greedy", "more").status })
	}
	beside := latency("modest-beside")
	wg.Wait()
	t.Logf("median of a modest user's requests: %s alone, %s while another sends %d", alone, beside, greed)
	served := map[int]int{}
	for _, status := range statuses {
		served[status]++
	}
	require.Equal(t, map[int]int{http.StatusOK: limit, http.StatusTooManyRequests: greed - limit}, served)
}
