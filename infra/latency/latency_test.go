package latency

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 11, 28, 12, 0, 30, 0, time.UTC)

func sum(minutes ...Minute) *Sum {
	s := &Sum{}
	for _, m := range minutes {
		s.Add(m)
	}
	return s
}

func TestSum_QuantilesOfManyProcessesAreThoseOfAllTimesWithinABucket(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var one, other Recent
	var all []time.Duration
	for range 5000 {
		took := time.Duration(random.ExpFloat64() * float64(2*time.Second))
		all = append(all, took)
		r := &one
		if random.IntN(3) == 0 {
			r = &other
		}
		r.Observe(took, noon.Add(-time.Duration(random.IntN(10))*time.Minute))
	}
	slices.Sort(all)
	s := sum(append(one.List(noon), other.List(noon)...)...)
	require.EqualValues(t, len(all), s.Count())
	for _, part := range []float64{0.01, 0.5, 0.95, 0.99, 1} {
		exact := all[min(int(part*float64(len(all))), len(all)-1)]
		require.InEpsilon(t, exact.Seconds(), s.Quantile(part).Seconds(), 0.09, "%v", part)
	}
}

func TestRecent_KeepsMinutesApartAndForgetsOldOnes(t *testing.T) {
	var r Recent
	r.Observe(time.Second, noon)
	r.Observe(2*time.Second, noon.Add(time.Minute))
	r.Observe(2*time.Second, noon.Add(time.Minute))
	list := r.List(noon.Add(time.Minute))
	require.Len(t, list, 2)
	require.Equal(t, noon.Truncate(time.Minute), list[0].Start)
	require.EqualValues(t, 1, sum(list[0]).Count())
	require.EqualValues(t, 2, sum(list[1]).Count())
	require.Len(t, r.List(noon.Add((Minutes-1)*time.Minute)), 2)
	require.Len(t, r.List(noon.Add(Minutes*time.Minute)), 1)
	require.Nil(t, r.List(noon.Add((Minutes+1)*time.Minute)))

	r.Observe(time.Second, noon.Add(Minutes*time.Minute)) // takes the first one's place
	r.Observe(time.Second, noon)                          // comes too late
	require.EqualValues(t, 3, sum(r.List(noon.Add(Minutes*time.Minute))...).Count())
}

func TestRecent_TakesTimesOfAnyLength(t *testing.T) {
	var r Recent
	for _, took := range []time.Duration{-time.Second, 0, time.Microsecond, time.Millisecond, 1000 * time.Hour} {
		r.Observe(took, noon)
	}
	s := sum(r.List(noon)...)
	require.EqualValues(t, 5, s.Count())
	require.Equal(t, time.Millisecond, s.Quantile(0))
	require.Greater(t, s.Quantile(1), 30*time.Minute)
}

func TestSum_OfNothingIsZero(t *testing.T) {
	require.Zero(t, sum().Quantile(0.5))
	require.Zero(t, sum(Minute{Start: noon}).Count())
}

func TestSum_LeavesOutWhatIsInNoBucket(t *testing.T) {
	require.EqualValues(t, 3, sum(Minute{First: -2, Counts: []int64{7, 7, 1}},
		Minute{First: buckets - 1, Counts: []int64{2, 7, 7}}, Minute{First: 3, Counts: []int64{-5}}).Count())
}

func TestRecent_ObservingAllocatesNothing(t *testing.T) {
	var r Recent
	require.Zero(t, testing.AllocsPerRun(100, func() { r.Observe(time.Second, noon) }))
}

func TestRecent_MayBeUsedConcurrently(t *testing.T) {
	var r Recent
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				r.Observe(time.Second, noon)
				r.List(noon)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 4000, sum(r.List(noon)...).Count())
}
