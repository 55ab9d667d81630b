package channel

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLog_WhatIsHeldForItCounts(t *testing.T) {
	s := New(1 << 20)
	l, other := begin(t, s, ada), begin(t, s, bob)
	other.Append(said(strings.Repeat("x", 1<<19)))
	require.True(t, l.Hold(3<<18), "events give way")
	require.True(t, other.Empty())
	require.LessOrEqual(t, s.Size(), int64(1<<20))
	require.False(t, l.Hold(1<<19))
	require.True(t, l.Hold(-1<<19))
	other.End()
	l.End()
	require.Zero(t, s.Size())
}

// However many there are, the next event costs no look at each of them.
func TestLogs_ThoseWithoutEventsArentLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1 << 20)
		l := begin(t, s, ada)
		begin(t, s, ada)
		require.Zero(t, s.lines.Len())
		l.Append(said("a"), partial("b"))
		require.Equal(t, 1, s.lines.Len())
		time.Sleep(keepFor + time.Second)
		s.Expire()
		require.Zero(t, s.lines.Len())
		l.Append(said("c"))
		begin(t, s, bob).Append(said(strings.Repeat("x", 1<<20)))
		require.Zero(t, s.lines.Len())
		require.True(t, l.Empty())
		l.End()
		l.Append(said("d"))
		require.Zero(t, s.lines.Len())
	})
}
