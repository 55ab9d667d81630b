package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var usual = limits{min: 1, max: 10, target: 70, calm: 10 * time.Minute}

func TestDecide(t *testing.T) {
	for name, test := range map[string]struct {
		fleet fleet
		calm  time.Duration
		want  int
	}{
		"within the target":                     {fleet{count: 2, live: 2, capacity: 200, reserved: 140}, time.Hour, 2},
		"over it":                               {fleet{count: 2, live: 2, capacity: 200, reserved: 141}, 0, 3},
		"far over it":                           {fleet{count: 2, live: 2, capacity: 200, reserved: 400}, 0, 6},
		"over the bound":                        {fleet{count: 10, live: 10, capacity: 1000, reserved: 1000}, 0, 10},
		"over, while others start":              {fleet{count: 3, live: 2, capacity: 200, reserved: 200}, 0, 3},
		"spare, not for long":                   {fleet{count: 4, live: 4, capacity: 400, reserved: 0}, time.Minute, 4},
		"spare for long goes by one":            {fleet{count: 4, live: 4, capacity: 400, reserved: 0}, 10 * time.Minute, 3},
		"spare to the bit":                      {fleet{count: 3, live: 3, capacity: 300, reserved: 105}, time.Hour, 2},
		"not spare by one":                      {fleet{count: 3, live: 3, capacity: 300, reserved: 106}, time.Hour, 3},
		"one instance doesn't report":           {fleet{count: 3, live: 2, capacity: 200, reserved: 0}, time.Hour, 3},
		"no instance reports":                   {fleet{count: 3}, time.Hour, 3},
		"the least":                             {fleet{count: 1, live: 1, capacity: 100}, time.Hour, 1},
		"stopped by hand":                       {fleet{count: 0}, time.Hour, 1},
		"more than the bound, set by hand":      {fleet{count: 12, live: 12, capacity: 1200, reserved: 700}, 0, 10},
		"two revisions while one is rolled out": {fleet{count: 2, live: 4, capacity: 400, reserved: 140}, 0, 2},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, decide(test.fleet, usual, test.calm)) })
	}
}

func drawLimits(t *rapid.T) limits {
	least := rapid.IntRange(1, 20).Draw(t, "min")
	return limits{min: least, max: rapid.IntRange(least, 100).Draw(t, "max"), target: rapid.IntRange(10, 100).Draw(t,
		"target"), calm: time.Minute}
}

func TestDecide_KeepsItsBoundsAndWhatIsReserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimits(t)
		f := fleet{count: rapid.IntRange(0, 120).Draw(t, "count"), live: rapid.IntRange(0, 120).Draw(t, "live")}
		f.capacity = f.live * rapid.IntRange(1, 500).Draw(t, "each")
		f.reserved = rapid.IntRange(0, f.capacity+1).Draw(t, "reserved")
		calm := rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "calm")

		got := decide(f, l, calm)
		if got < l.min || got > l.max {
			t.Fatalf("%d is out of %d to %d", got, l.min, l.max)
		}
		if got >= f.count || got == l.max {
			return
		}
		if got != f.count-1 || calm == 0 || f.live < f.count {
			t.Fatalf("went from %d to %d with %d live, calm for %s", f.count, got, f.live, calm)
		}
		if f.reserved*f.live > got*f.capacity {
			t.Fatalf("%d of %d instances can't hold the %d that are reserved", got, f.count, f.reserved)
		}
	})
}

// At a constant load the count goes one way only, and comes to rest.
func TestDecide_DoesNotSwing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimits(t)
		each := rapid.IntRange(1, 500).Draw(t, "each")
		count := rapid.IntRange(l.min, l.max).Draw(t, "count")
		reserved := rapid.IntRange(0, each*l.max).Draw(t, "reserved")
		direction := 0
		for range l.max + 1 {
			next := decide(fleet{count: count, live: count, capacity: count * each, reserved: reserved}, l, time.Hour)
			if next == count {
				return
			}
			if (next-count)*direction < 0 {
				t.Fatalf("turned at %d", count)
			}
			direction, count = next-count, next
		}
		t.Fatal("never came to rest")
	})
}
