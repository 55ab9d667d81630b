// Package latency keeps how long things took in the last minutes: how many fell into which of a fixed set of buckets,
// minute by minute, in a fixed amount of memory. Counts of several processes can be added up. What it is not for are
// times of more than half an hour, or a history.
package latency

import (
	"math"
	"sync"
	"time"
)

// Minutes is how many are kept, the present one included.
const Minutes = 15

const (
	// perOctave is how many buckets there are until a time has doubled: each is 9 % wide, and a quantile as exact as that.
	perOctave = 8
	// buckets end at 2^21 ms, which is 35 minutes: the longest turns are shorter.
	buckets = 21 * perOctave
)

// Minute is what was counted in one minute, from the first bucket that isn't empty to the last. Who changes what the
// buckets are has to give it another name where it is stored.
type Minute struct {
	Start  time.Time `firestore:"start"`
	First  int       `firestore:"first"`
	Counts []int64   `firestore:"counts"`
}

// Recent counts. The zero value is ready; it may be used concurrently.
type Recent struct {
	mu      sync.Mutex // guards minutes
	minutes [Minutes]struct {
		number int64 // of minutes since 1970
		counts [buckets]int64
	}
}

// Observe counts something that took so long until now. It allocates nothing.
func (r *Recent) Observe(took time.Duration, now time.Time) {
	number, bucket := now.Unix()/60, bucketOf(took)
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &r.minutes[number%Minutes]
	switch {
	case m.number > number:
		return // it has been forgotten by now
	case m.number < number:
		m.number, m.counts = number, [buckets]int64{}
	}
	m.counts[bucket]++
}

// bucketOf is the bucket of a time. The first has all below a millisecond, the last all that is too long.
func bucketOf(took time.Duration) int {
	ms := float64(took) / float64(time.Millisecond)
	if ms < 1 {
		return 0
	}
	return min(1+int(perOctave*math.Log2(ms)), buckets-1)
}

// List returns the last minutes in which anything was counted, the oldest first.
func (r *Recent) List(now time.Time) []Minute {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, all := []Minute(nil), []int64(nil)
	present := now.Unix() / 60
	for number := present - Minutes + 1; number <= present; number++ {
		m := &r.minutes[number%Minutes]
		if m.number != number {
			continue
		}
		if list == nil { // both at once, and for most instances at most of the time not at all
			list, all = make([]Minute, 0, Minutes), make([]int64, 0, Minutes*2*perOctave)
		}
		first, end := bounds(&m.counts)
		from := len(all)
		all = append(all, m.counts[first:end]...)
		list = append(list, Minute{Start: time.Unix(number*60, 0).UTC(), First: first, Counts: all[from:len(all):len(all)]})
	}
	return list
}

// bounds are the first bucket that isn't empty, and the one after the last.
func bounds(counts *[buckets]int64) (first, end int) {
	end = buckets
	for first < end && counts[first] == 0 {
		first++
	}
	for end > first && counts[end-1] == 0 {
		end--
	}
	return first, end
}

// Sum is counts of several minutes, or of several processes. The zero value is empty.
type Sum struct {
	count  int64
	counts [buckets]int64
}

// Add adds a minute. What is in no bucket is left out: it was stored elsewhere.
func (s *Sum) Add(m Minute) {
	for i, n := range m.Counts {
		if bucket := m.First + i; bucket >= 0 && bucket < buckets && n > 0 {
			s.counts[bucket] += n
			s.count += n
		}
	}
}

// Count is how many there are.
func (s *Sum) Count() int64 { return s.count }

// Quantile is the time below which that part of all have stayed, 0.95 for 95 %, or 0 if there are none.
func (s *Sum) Quantile(part float64) time.Duration {
	if s.count == 0 {
		return 0
	}
	rank := min(max(part*float64(s.count), 0), float64(s.count))
	bucket, before := 0, 0.0
	for ; bucket < buckets-1; bucket++ {
		n := float64(s.counts[bucket])
		if n > 0 && before+n >= rank {
			break
		}
		before += n
	}
	if bucket == 0 {
		return time.Millisecond
	}
	// Where in its bucket it is can't be known: they count as spread over it evenly.
	within := (rank - before) / float64(max(1, s.counts[bucket]))
	return time.Duration(math.Exp2((float64(bucket-1)+within)/perOctave) * float64(time.Millisecond))
}
