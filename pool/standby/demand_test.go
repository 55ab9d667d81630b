package standby

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/claude"
)

func TestDemand_ABurstIsRememberedForAWhileAndNotForEver(t *testing.T) {
	var d demand
	now := time.Now()
	require.Zero(t, d.peakNow(now))
	for range 20 {
		d.count(now, kind{})
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
		d.count(now, kind{})
	}
	require.Equal(t, 1, d.peakNow(now))
}

var blank = kind{blank: true}

func TestDemand_BlankOnesAreKeptAsArrivalsNeedThem(t *testing.T) {
	d := demand{latest: latestShare}
	now := time.Now()
	wantsBlank := func(have, total int) bool {
		return d.missing(map[kind]int{blank: have, {}: total - have}, total) == blank
	}
	require.False(t, wantsBlank(0, 4), "nobody has sent a system prompt")
	for range 20 {
		d.count(now, blank)
	}
	require.True(t, wantsBlank(3, 4))
	require.False(t, wantsBlank(4, 4))
	for i := range 20 {
		d.count(now, []kind{blank, {}}[i%2])
	}
	require.True(t, wantsBlank(0, 4))
	require.False(t, wantsBlank(3, 4))
	for range 20 {
		d.count(now, kind{})
	}
	require.False(t, wantsBlank(0, 4))
}

func TestDemand_WhatIsKeptFollowsWhatWasAskedForLast(t *testing.T) {
	d := demand{latest: latestParked}
	now := time.Now()
	haiku, sonnet := kind{cli: claude.Options{Model: "haiku"}}, kind{cli: claude.Options{Model: "sonnet"}}
	d.count(now, haiku)
	require.Equal(t, haiku, d.missing(map[kind]int{{}: 1}, 1))
	require.True(t, d.spare(kind{}, map[kind]int{{}: 1}, 1), "it gives way")
	require.Equal(t, kind{}, d.missing(map[kind]int{haiku: 1}, 1))
	require.False(t, d.spare(haiku, map[kind]int{haiku: 1}, 1))
	d.count(now, sonnet)
	require.Equal(t, sonnet, d.missing(map[kind]int{haiku: 1}, 1))
	require.True(t, d.spare(haiku, map[kind]int{haiku: 1}, 1))
	require.Equal(t, sonnet, d.missing(map[kind]int{haiku: 1}, 2), "of two one each")
	require.Equal(t, sonnet, d.missing(map[kind]int{{}: 1}, 2), "the more wanted one first")
}

func TestDemand_KindsThatNobodyWantsAnyMoreAreForgotten(t *testing.T) {
	d := demand{latest: latestShare}
	for i := range 1000 {
		d.count(time.Now(), kind{cli: claude.Options{Model: fmt.Sprint("model-", i)}})
		require.LessOrEqual(t, len(d.shares), 16)
	}
}
