package function

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/latency"
	"claudepool/infra/snapshot"
	"claudepool/pool/api"
)

func TestAggregate_ListsEveryUserOnceAndCountsIdleTimeToNow(t *testing.T) {
	now := time.Now()
	user := func(ago time.Duration) snapshot.User {
		return snapshot.User{ID: "0123456789abcdef", Processes: 1, PID: int(ago.Seconds()), CreatedAt: now.Add(-time.Minute),
			LastUsed: now.Add(-ago)}
	}
	stats := aggregate([]snapshot.Instance{
		{ID: "b", At: now, Processes: 1, Busy: 1, Pending: 7,
			Served: snapshot.Served{Standby: 1, Reused: 2, Resumed: 3, Cold: 4},
			Users:  []snapshot.User{user(30 * time.Second)}, Queued: 2, Misses: 3,
			Parked: 4, ParkedMisses: 5, MovedTooLarge: 6,
			Protections: map[string]bool{"uid": true}, Cleanup: snapshot.Cleanup{Last: now, Total: 1,
				AvgLifetime: 10 * time.Second}},
		{ID: "a", At: now.Add(-time.Second), Processes: 1, Users: []snapshot.User{user(10 * time.Second)},
			Cleanup: snapshot.Cleanup{Last: now.Add(-time.Second), Total: 3, AvgLifetime: 2 * time.Second}},
	}, now, false, now)
	require.Len(t, stats.ActiveUsers, 1)
	require.Equal(t, "a", stats.ActiveUsers[0].Instance)
	require.Equal(t, "01234567...", stats.ActiveUsers[0].UserID)
	require.InDelta(t, 10, stats.ActiveUsers[0].IdleTime, 0.001)
	require.Equal(t, 2, stats.PoolSize)
	require.Equal(t, "a", stats.Instances[0].ID)
	require.Equal(t, api.Instance{ID: "b", Processes: 1, Busy: 1, Pending: 7,
		Served: api.Served{Standby: 1, Reused: 2, Resumed: 3, Cold: 4},
		Queued: 2, StandbyMisses: 3, Parked: 4, ParkedMisses: 5,
		MovedTooLarge: 6, Protections: map[string]bool{"uid": true}}, stats.Instances[1])
	require.Equal(t, api.CleanupStats{LastCleanup: &now, TotalCleaned: 4, AvgLifetime: 4}, stats.Cleanup)
}

func TestFirstToken_AddsUpInstancesMinuteByMinute(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 30, 0, time.UTC)
	var one, other, old latency.Recent
	one.Observe(time.Second, now)
	other.Observe(time.Second, now)
	other.Observe(4*time.Second, now.Add(-recentMinutes*time.Minute))
	before := now.Add(-latency.Minutes * time.Minute) // as in a snapshot that has come late
	old.Observe(time.Minute, before)
	got := firstToken([]snapshot.Instance{{FirstTokens: old.List(before)}, {FirstTokens: one.List(now)},
		{FirstTokens: other.List(now)}, {}}, now)
	require.EqualValues(t, 300, got.Period)
	require.EqualValues(t, 2, got.Count)
	require.InEpsilon(t, 1, got.P99, 0.1)
	require.Len(t, got.Minutes, 2)
	require.Equal(t, now.Add(-recentMinutes*time.Minute).Truncate(time.Minute), got.Minutes[0].Start)
	require.InEpsilon(t, 4, got.Minutes[0].P50, 0.1)
	require.EqualValues(t, 2, got.Minutes[1].Count)

	none := firstToken(nil, now)
	require.Equal(t, api.FirstToken{Period: 300, Minutes: []api.FirstTokenMinute{}}, none)
}

func TestFront_StatsNeedTheirTokenWhenThereIsOne(t *testing.T) {
	f, url, _ := newFront(t)
	f.opts.StatsToken = "the-stats-token"
	for _, path := range []string{pathStats, pathStream} {
		for token, want := range map[string]int{"": 401, "Bearer wrong": 401, "Bearer the-stats-token": 200} {
			r, err := http.NewRequest(http.MethodGet, url+path, nil)
			require.NoError(t, err)
			r.Header.Set("Authorization", token)
			response, err := http.DefaultClient.Do(r)
			require.NoError(t, err)
			response.Body.Close()
			require.Equal(t, want, response.StatusCode)
			require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
		}
	}
}
