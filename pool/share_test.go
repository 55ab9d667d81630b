package pool

import (
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/confine"
)

// looked is what a look finds of users who have used so much of a processor for each second since the last one.
func looked(known map[string]*record, used map[string]float64) (looks []look) {
	for user, processors := range used {
		if known[user] == nil {
			known[user] = &record{}
		}
		looks = append(looks, look{seen: seen{user: user}, record: known[user],
			spent: time.Duration(processors * float64(time.Second))})
	}
	return looks
}

func TestWatcher_OnlyWhoUsesMoreThanItsShareInACrowdIsSlowed(t *testing.T) {
	w := newWatcher(&Pool{opts: Options{Logger: slog.New(slog.DiscardHandler)}})
	cores := float64(runtime.GOMAXPROCS(0))
	crowd := confine.MachineLoad{Runnable: int64(100 * cores)}
	known := make(map[string]*record)
	see := func(pulse confine.MachineLoad, used map[string]float64) map[string]bool {
		w.share(looked(known, used), pulse, time.Second)
		return w.slow
	}
	busy := map[string]float64{"ada": 0.2 * cores / 3, "bob": 0.9 * cores}
	require.Empty(t, see(confine.MachineLoad{}, busy), "nobody waits")
	require.Empty(t, see(confine.MachineLoad{}, busy))
	known = make(map[string]*record)
	for range overLooks - 1 {
		require.Empty(t, see(crowd, busy), "it may only have started")
		require.True(t, w.suspects)
	}
	require.Equal(t, map[string]bool{"bob": true}, see(crowd, busy))
	require.Equal(t, map[string]bool{"bob": true}, see(confine.MachineLoad{}, busy), "as long as it takes that much")
	calm := map[string]float64{"ada": 0.1, "bob": 0}
	see(crowd, calm)
	require.Equal(t, map[string]bool{"bob": true}, see(crowd, calm), "it may only have paused")
	require.Empty(t, see(crowd, calm))

	all := map[string]float64{"ada": cores / 4, "bob": cores / 4, "eve": cores / 4}
	for range 2 * overLooks {
		require.Empty(t, see(crowd, all), "all of them have their share")
	}
	w.slow = map[string]bool{"eve": true}
	build := map[string]float64{"ada": 0.01, "bob": 0.65 * cores, "eve": 0.9 * cores}
	for range 2 * overLooks {
		require.NotContains(t, see(crowd, build), "bob", "who is slowed is in nobody's way")
	}
}

func TestWatcher_WhenMemoryIsShortWhoHasGrownGoesAndNotWhoWasThere(t *testing.T) {
	const mib = 1 << 20
	old := look{usage: confine.Usage{Memory: 1500 * mib}, record: &record{size: 1500 * mib}}
	grown := look{usage: confine.Usage{Memory: 900 * mib}, record: &record{size: baselineSize}}
	fresh := look{usage: confine.Usage{Memory: 200 * mib}, record: &record{size: baselineSize}}
	require.EqualValues(t, 0, old.growth())
	require.EqualValues(t, 600*mib, grown.growth())
	require.Negative(t, fresh.growth())
}
