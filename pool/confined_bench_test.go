package pool_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

// Users in turn get a process that is confined and one that isn't: how long their first turns take, and the memory
// after them (PSS).
func BenchmarkConfinement_FirstTurnOfANewProcess(b *testing.B) {
	need.Root(b)
	ways := []struct {
		name   string
		s      *service
		took   []float64 // ms
		memory []float64 // MiB
	}{{name: "free", s: newService(b, nil)}, {name: "confined", s: newServiceWith(b, confinement(b), nil)}}
	for i := 0; b.Loop(); i++ {
		for n := range ways {
			w := &ways[(i+n)%len(ways)]
			user := fmt.Sprint("user", i)
			began := time.Now()
			r := w.s.ask(user, "hello", nil)
			w.took = append(w.took, float64(time.Since(began).Microseconds())/1000)
			r.text(b)
			w.memory = append(w.memory, pss(b, r.pid))
			w.s.pool.Evict(userID(user))
			require.Eventually(b, func() bool { return len(w.s.owner.releasedUsers()) == i+1 }, time.Minute, 10*time.Millisecond)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, w := range ways {
		b.ReportMetric(middle(w.took), "ms/"+w.name)
		b.ReportMetric(middle(w.memory), "MiB/"+w.name)
	}
}

func pss(b *testing.B, pid string) float64 {
	b.Helper()
	n, err := strconv.Atoi(pid)
	require.NoError(b, err)
	proc, err := procfs.NewProc(n)
	require.NoError(b, err)
	memory, err := proc.ProcSMapsRollup()
	require.NoError(b, err)
	return float64(memory.Pss) / (1 << 20)
}

func middle(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }
