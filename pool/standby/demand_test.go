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
		d.arrive(now)
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
		d.arrive(now)
	}
	require.Equal(t, 1, d.peakNow(now))
}

var blank = kind{blank: true}

func TestDemand_BlankOnesAreKeptAsArrivalsNeedThem(t *testing.T) {
	d := demand{pace: warmPace}
	wantsBlank := func(have, total int) bool {
		k, isMissed := d.missing(map[kind]int{blank: have, {}: total - have}, total)
		return isMissed && k == blank
	}
	require.False(t, wantsBlank(0, 4), "nobody has sent a system prompt")
	for range 20 {
		d.prefer(blank)
	}
	require.True(t, wantsBlank(3, 4))
	require.False(t, wantsBlank(4, 4))
	for i := range 20 {
		d.prefer([]kind{blank, {}}[i%2])
	}
	require.True(t, wantsBlank(0, 4))
	require.False(t, wantsBlank(3, 4))
	for range 20 {
		d.prefer(kind{})
	}
	require.False(t, wantsBlank(0, 4))
	d.prefer(blank)
	require.True(t, wantsBlank(0, 2))
	require.True(t, d.spare(kind{}, map[kind]int{{}: 2}, 2), "it gives way")
}

func TestDemand_WhatIsKeptFollowsWhatWasAskedForLast(t *testing.T) {
	d := demand{pace: parkedPace}
	haiku, sonnet := kind{cli: claude.Options{Model: "haiku"}}, kind{cli: claude.Options{Model: "sonnet"}}
	missing := func(have map[kind]int, total int) kind {
		k, _ := d.missing(have, total)
		return k
	}
	d.prefer(haiku)
	require.Equal(t, haiku, missing(map[kind]int{{}: 1}, 1))
	require.True(t, d.spare(kind{}, map[kind]int{{}: 1}, 1), "it gives way")
	require.False(t, d.spare(haiku, map[kind]int{haiku: 1}, 1))
	d.prefer(sonnet)
	require.Equal(t, sonnet, missing(map[kind]int{haiku: 1}, 2), "of two one each")
	require.False(t, d.spare(haiku, map[kind]int{haiku: 1}, 2))
	d.prefer(sonnet)
	require.Equal(t, sonnet, missing(map[kind]int{haiku: 1}, 1))
	require.True(t, d.spare(haiku, map[kind]int{haiku: 1}, 1))
}

func TestDemand_KindsThatAreWantedInTurnDontReplaceEachOther(t *testing.T) {
	d := demand{pace: parkedPace}
	kept := kind{cli: claude.Options{Model: "haiku"}}
	other := kind{cli: claude.Options{Model: "sonnet"}}
	for i := range 100 {
		d.prefer(other)
		if i > 10 {
			require.False(t, d.spare(kept, map[kind]int{kept: 1}, 1))
		}
		d.prefer(kept)
	}
}

func TestDemand_KindsThatNobodyWantsAnyMoreAreForgotten(t *testing.T) {
	d := demand{pace: warmPace}
	for i := range 1000 {
		d.prefer(kind{cli: claude.Options{Model: fmt.Sprint("model-", i)}})
		require.LessOrEqual(t, len(d.shares), 16)
	}
}
