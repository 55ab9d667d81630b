package standby

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDemand_ABurstIsRememberedForAWhileAndNotForEver(t *testing.T) {
	var d demand
	now := time.Now()
	require.Zero(t, d.peakNow(now))
	for range 20 {
		d.count(now, false)
	}
	require.Equal(t, 20, d.peakNow(now))
	last := 20
	for _, after := range []time.Duration{time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute} {
		at := d.peakNow(now.Add(after))
		require.Less(t, at, last, after)
		last = at
	}
	require.Positive(t, last, "the same hour may see another")
	require.Zero(t, d.peakNow(now.Add(2*time.Hour)))
}

func TestDemand_WhoComesOneByOneIsNoBurst(t *testing.T) {
	var d demand
	now := time.Now()
	for range 1000 {
		now = now.Add(30 * time.Second)
		d.count(now, false)
	}
	require.Equal(t, 1, d.peakNow(now))
}

func TestDemand_BlankOnesAreKeptAsArrivalsNeedThem(t *testing.T) {
	var d demand
	now := time.Now()
	require.False(t, d.wantsBlank(0, 4), "nobody has sent a system prompt")
	for range 20 {
		d.count(now, true)
	}
	require.True(t, d.wantsBlank(3, 4))
	require.False(t, d.wantsBlank(4, 4))
	for i := range 20 {
		d.count(now, i%2 == 0)
	}
	require.True(t, d.wantsBlank(0, 4))
	require.False(t, d.wantsBlank(3, 4))
	for range 20 {
		d.count(now, false)
	}
	require.False(t, d.wantsBlank(0, 4))
}
