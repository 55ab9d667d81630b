package main

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
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
	var requests errgroup.Group
	requests.SetLimit(8)
	ended := make(chan error, 1)
	go func() {
		for i := range statuses {
			requests.Go(func() error { statuses[i] = d.ask(first+i%2, "greedy", "more").status; return nil })
		}
		ended <- requests.Wait()
	}()
	beside := latency("modest-beside")
	require.NoError(t, <-ended)
	t.Logf("median of a modest user's requests: %s alone, %s while another sends %d", alone, beside, greed)
	served := map[int]int{}
	for _, status := range statuses {
		served[status]++
	}
	t.Logf("of those were answered: %v", served)
	require.GreaterOrEqual(t, served[http.StatusOK], limit)
	require.Less(t, served[http.StatusOK], 2*limit,
		"each front by itself would let as many through; one that Redis can't count within a second is")
	require.Equal(t, greed, served[http.StatusOK]+served[http.StatusTooManyRequests])
}
