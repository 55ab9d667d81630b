package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/option"
	"google.golang.org/api/run/v2"

	"claudepool/infra/testkit"
	"claudepool/router"
)

const poolName = "projects/p/locations/l/workerPools/w"

// platform stands in for the Cloud Run Admin API: it knows one worker pool.
type platform struct {
	mu      sync.Mutex // guards the following
	count   int
	patches []string // query and body of each
	refuse  int      // status of the answer to the next ones; 0: they succeed
}

func (p *platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path != "/v2/"+poolName {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodGet {
		fmt.Fprintf(w, `{"name":%q,"scaling":{"manualInstanceCount":%d}}`, poolName, p.count)
		return
	}
	if p.refuse != 0 {
		http.Error(w, `{"error":{"message":"no"}}`, p.refuse)
		return
	}
	var body struct{ Scaling map[string]int }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.patches = append(p.patches, fmt.Sprint(r.Method, " ", r.URL.Query().Get("updateMask"), " ", body.Scaling))
	p.count = body.Scaling["manualInstanceCount"]
	fmt.Fprint(w, `{"name":"operations/o","done":false}`)
}

func (p *platform) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.patches
}

func newRedis(t *testing.T) *redis.Client {
	t.Helper()
	client, err := router.NewClient("redis://"+testkit.Redis(t), "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, 10*time.Second,
		10*time.Millisecond)
	return client
}

// newScaler returns one over an empty Redis and a platform that was asked for count instances.
func newScaler(t *testing.T, count int) (*scaler, *platform) {
	t.Helper()
	p := &platform{count: count}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	api, err := run.NewService(t.Context(), option.WithEndpoint(server.URL), option.WithHTTPClient(server.Client()))
	require.NoError(t, err)
	return &scaler{log: slog.New(slog.DiscardHandler), redis: newRedis(t), api: api, pool: poolName, limits: usual}, p
}

// lease has an instance of 100 places live until the test ends.
func lease(t *testing.T, client *redis.Client, reserved int) *router.Lease {
	t.Helper()
	l := router.NewLease(client, router.LeaseOptions{Logger: slog.New(slog.DiscardHandler), Addr: "127.0.0.1:1",
		Capacity: 100,
		Load:     func() (int, int) { return reserved, 0 }, Evict: func(string) {}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	require.Eventually(t, func() bool {
		instances, err := router.Instances(t.Context(), client)
		require.NoError(t, err)
		for _, i := range instances {
			if i.ID == l.ID() {
				return i.Reserved == reserved && i.Capacity == 100
			}
		}
		return false
	}, 10*time.Second, 20*time.Millisecond)
	return l
}

func calmSince(t *testing.T, s *scaler, ago time.Duration) {
	t.Helper()
	now, err := s.redis.Time(t.Context()).Result()
	require.NoError(t, err)
	require.NoError(t, s.redis.Set(t.Context(), calmKey, now.Add(-ago).UnixMilli(), forget).Err())
}

func TestPass_GrowsToWhatTheLeasesNeed(t *testing.T) {
	s, p := newScaler(t, 1)
	lease(t, s.redis, 150)
	require.NoError(t, s.pass(t.Context()))
	require.Equal(t, []string{"PATCH scaling.manualInstanceCount map[manualInstanceCount:3]"}, p.seen())
	require.NoError(t, s.pass(t.Context()))
	require.Len(t, p.seen(), 1, "the count is right: nothing to set")
}

func TestPass_ShrinksByOneAfterACalmThatEndsWithIt(t *testing.T) {
	s, p := newScaler(t, 3)
	for range 3 {
		lease(t, s.redis, 10)
	}
	require.NoError(t, s.pass(t.Context()))
	require.Empty(t, p.seen(), "it has only just become calm")

	calmSince(t, s, usual.calm)
	require.NoError(t, s.pass(t.Context()))
	require.Equal(t, []string{"PATCH scaling.manualInstanceCount map[manualInstanceCount:2]"}, p.seen())
	require.NoError(t, s.pass(t.Context()))
	require.Len(t, p.seen(), 1, "the next one needs a calm of its own")
}

func TestPass_ALoadedMomentEndsTheCalm(t *testing.T) {
	s, p := newScaler(t, 2)
	lease(t, s.redis, 70)
	lease(t, s.redis, 60)
	calmSince(t, s, time.Hour)
	require.NoError(t, s.pass(t.Context()))
	require.Empty(t, p.seen())
	require.Zero(t, s.redis.Exists(t.Context(), calmKey).Val())
}

func TestPass_ADrainingInstanceCountsAsGone(t *testing.T) {
	s, p := newScaler(t, 2)
	lease(t, s.redis, 0)
	require.NoError(t, lease(t, s.redis, 0).Drain(t.Context()))
	calmSince(t, s, time.Hour)
	require.NoError(t, s.pass(t.Context()))
	require.Empty(t, p.seen(), "one of the two doesn't report, so nobody knows whether one is enough")
}

func TestPass_DryRunSetsNothing(t *testing.T) {
	s, p := newScaler(t, 1)
	s.dryRun = true
	lease(t, s.redis, 150)
	require.NoError(t, s.pass(t.Context()))
	require.Empty(t, p.seen())
}

func TestPass_FailsWithoutRedisOrThePlatformAndSetsNothing(t *testing.T) {
	s, p := newScaler(t, 1)
	lease(t, s.redis, 150)
	p.refuse = http.StatusForbidden
	require.ErrorContains(t, s.pass(t.Context()), "set the instance count")

	p.refuse = 0
	reachable := s.redis
	away, err := router.NewClient("redis://127.0.0.1:1", "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = away.Close() })
	s.redis = away
	require.Error(t, s.pass(t.Context()))
	s.redis, s.pool = reachable, "projects/p/locations/l/workerPools/another"
	require.ErrorContains(t, s.pass(t.Context()), "read the worker pool")
	require.Empty(t, p.seen())
}
