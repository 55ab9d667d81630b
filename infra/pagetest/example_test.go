package pagetest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/function"
	"claudepool/infra/hop"
	"claudepool/infra/latency"
	"claudepool/infra/snapshot"
)

// store holds snapshots that tests make up, and can be away.
type store struct {
	*snapshot.Memory
	away atomic.Bool
}

var errAway = errors.New("away")

func (s *store) List(ctx context.Context) ([]snapshot.Instance, error) {
	if s.away.Load() {
		return nil, errAway
	}
	return s.Memory.List(ctx)
}

// put has the instances have written these snapshots just now.
func (s *store) put(t *testing.T, instances ...snapshot.Instance) {
	t.Helper()
	for _, i := range instances {
		i.At = time.Now().Add(-time.Second)
		i.ExpiresAt = time.Now().Add(time.Hour)
		require.NoError(t, s.Put(t.Context(), i))
	}
}

// newFront serves a front that is alone but for the snapshots, and returns its address.
func newFront(t *testing.T) (*store, string) {
	t.Helper()
	s, log := &store{Memory: snapshot.NewMemory()}, slog.New(slog.DiscardHandler)
	keys, err := hop.ParseKeys(hop.NewKey())
	require.NoError(t, err)
	front := function.New(function.Options{Logger: log, Client: function.NewClient(), View: snapshot.NewView(s, log),
		Keys: keys, MaxBodyBytes: 1 << 20})
	server := httptest.NewServer(front)
	t.Cleanup(func() { front.Drain(0); server.Close() })
	return s, server.URL
}

// example is what three instances on a busy day could have written. It is always the same but for the time.
func example() []snapshot.Instance {
	random := rand.New(rand.NewPCG(7, 11))
	var list []snapshot.Instance
	for n, id := range []string{"k3tq7w2v9mzr4x8c", "p6nd1h5yb0fs2j7g", "x9ce4r8ua3lw6t1q"} {
		i := snapshot.Instance{ID: id, Capacity: 40, Processes: 21 - 4*n, Busy: 6 - n, Pending: 1 - n%2, Standby: 3,
			Parked: 2, Misses: int64(4 + n), ParkedMisses: int64(2 * n), Queued: 2 - n, Draining: n == 2,
			Protections: map[string]bool{"uid": true, "files": true, "network": true, "syscalls": true, "cgroup": n == 1},
			Served: snapshot.Served{Reused: 2841 - int64(n)*311, Standby: 402 - int64(n)*37, Resumed: 118 + int64(n)*9,
				Cold: 17 + int64(n)}}
		i.FirstTokens = exampleTimes(random)
		for u := range i.Processes {
			used := time.Now().Add(-time.Duration(random.IntN(280)) * time.Second)
			i.Users = append(i.Users, snapshot.User{ID: fmt.Sprintf("%016x", random.Uint64()), Processes: 1 + u%7/6,
				PID: 4000 + u, CreatedAt: used.Add(-time.Duration(random.IntN(9000)) * time.Second), LastUsed: used,
				Busy: u < i.Busy, Alive: true})
		}
		list = append(list, i)
	}
	return list
}

// exampleTimes has the times to the first token of a quarter of an hour, slower for a while in its middle.
func exampleTimes(random *rand.Rand) []latency.Minute {
	var recent latency.Recent
	now := time.Now()
	for ago := range latency.Minutes {
		slower := 1 + 1.2*math.Exp(-math.Pow(float64(ago-6)/1.8, 2))
		for range 40 + random.IntN(20) {
			took := 0.42 * slower * math.Exp(0.38*random.NormFloat64())
			recent.Observe(time.Duration(took*float64(time.Second)), now.Add(-time.Duration(ago)*time.Minute))
		}
	}
	return recent.List(now)
}
