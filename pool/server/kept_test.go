package server_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"claudepool/pool/server"
)

// ringOf has replays keep that many of the lines that numbers makes.
func ringOf(lines int) server.Tuning {
	return server.Tuning{Silence: rarely.Silence, ReplayBytes: lines * len("line 001")}
}

func TestReplay_NobodyReadingCostsNoMoreThanTheRing(t *testing.T) {
	inBubble(t, ringOf(3), func(t *testing.T, h *house) {
		_, c, id := h.begin(says(numbers(9)...))
		c.leave()
		time.Sleep(10 * time.Second)
		for after := range 6 {
			require.Contains(t, h.resume(id, after).whole().refused(t, 404), "not kept any more")
		}
		r := h.resume(id, 6).whole()
		r.answered(t, numbers(9)[6:]...)
		require.Equal(t, id+".7", r.ids[0])
	})
}

func TestReplay_ALineLargerThanTheRingIsKeptAlone(t *testing.T) {
	inBubble(t, ringOf(1), func(t *testing.T, h *house) {
		large := strings.Repeat("large ", 100)
		_, c, id := h.begin(says("one", large))
		c.whole().answered(t, "one", large)
		h.resume(id, 0).whole().refused(t, 404)
		h.resume(id, 1).whole().answered(t, large)
	})
}

func TestReplay_ABatchLargerThanTheRingReachesWhoReads(t *testing.T) {
	inBubble(t, ringOf(2), func(t *testing.T, h *house) {
		_, c, _ := h.begin(func(ctx context.Context, t *turn) error {
			t.sent()
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			time.Sleep(time.Second)
			return t.say(ctx, numbers(9)...)
		})
		r := c.whole()
		r.answered(t, numbers(9)...)
		require.Equal(t, 1000.0, r.receipt.Get("total_ms").Num, "at once")
	})
}

func TestReplay_AReaderWhoIsSlowButThereIsWaitedFor(t *testing.T) {
	inBubble(t, ringOf(3), func(t *testing.T, h *house) {
		turn, c, _ := h.begin(says(numbers(9)...))
		c.stall()
		time.Sleep(time.Hour)
		require.False(t, turn.isReleased())
		c.read()
		c.whole().answered(t, numbers(9)...)
	})
}

func TestReplay_ASlowReaderWhoLeavesIsWaitedForNoMore(t *testing.T) {
	inBubble(t, ringOf(3), func(t *testing.T, h *house) {
		turn, c, id := h.begin(says(numbers(9)...))
		c.stall()
		time.Sleep(time.Hour)
		c.hangUp()
		time.Sleep(server.LastWords)
		synctest.Wait()
		require.True(t, c.isOver(), "it is hurried")
		h.server.Close()
		require.True(t, turn.isReleased())
		h.resume(id, 6).whole().answered(t, numbers(9)[6:]...)
	})
}

// The turn may not wait any longer: the reader finds a gap when it comes back.
func TestReplay_ASlowReaderIsWaitedForUntilItsTurnIsEnded(t *testing.T) {
	inBubble(t, ringOf(3), func(t *testing.T, h *house) {
		turn, c, _ := h.begin(func(ctx context.Context, t *turn) error {
			t.sent()
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			for _, line := range numbers(9) {
				_ = t.say(ctx, line)
				time.Sleep(time.Second)
			}
			return context.Cause(ctx)
		})
		c.stall()
		time.Sleep(59 * time.Second)
		require.False(t, turn.isReleased())
		h.server.Close()
		require.True(t, turn.isReleased())
		require.False(t, c.isOver())
		c.read()
		require.Equal(t, "events were lost, as they were read too slowly", c.whole().failed(t, "line 001", "line 002"))
	})
}

func TestReplay_AnEndedTurnIsKeptForAWhile(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		_, c, id := h.begin(says("one"))
		c.whole()
		time.Sleep(server.ReplayKeep - time.Millisecond)
		h.resume(id, 0).whole().answered(t, "one")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		require.Contains(t, h.resume(id, 0).whole().refused(t, 404), "no such turn")
	})
}

func TestReplay_OfEndedTurnsTheOldestGiveWay(t *testing.T) {
	inBubble(t, server.Tuning{EndedBytes: 100}, func(t *testing.T, h *house) {
		kept := func(id string) bool { return h.resume(id, 0).whole().status == 200 }
		running, c, still := h.begin(hangs)
		c.leave()
		var ids []string
		for range 3 {
			_, c, id := h.begin(says(strings.Repeat("x", 40)))
			c.whole()
			ids = append(ids, id)
		}
		require.False(t, kept(ids[0]))
		require.True(t, kept(ids[1]))
		require.True(t, kept(ids[2]))
		_, c, large := h.begin(says(strings.Repeat("x", 101)))
		c.whole()
		require.False(t, kept(large), "it is more than all may have")
		require.False(t, kept(ids[2]))
		c = h.resume(still, 0)
		running.stop()
		c.whole().answered(t)
		require.True(t, kept(still), "it is none of those")
		time.Sleep(server.ReplayKeep)
		synctest.Wait()
		require.False(t, kept(still))
	})
}

// watched has a turn say lines, and tells of each whether something keeps it.
func (h *house) watched(sizes ...int) (keeps func(i int) bool) {
	var lines []weak.Pointer[byte]
	_, c, _ := h.begin(func(ctx context.Context, t *turn) error {
		t.sent()
		for _, size := range sizes {
			line := []byte(strings.Repeat("x", size))
			lines = append(lines, weak.Make(&line[0]))
			if err := t.emit(ctx, [][]byte{line}); err != nil {
				return err
			}
			time.Sleep(time.Second) // for its reader
		}
		return nil
	})
	<-c.ended
	return func(i int) bool {
		synctest.Wait()
		runtime.GC()
		return lines[i].Value() != nil
	}
}

func TestReplay_WhatGaveWayIsNotInMemoryAnyMore(t *testing.T) {
	const large = 1000
	inBubble(t, server.Tuning{ReplayBytes: 2 * large, EndedBytes: 3 * large}, func(t *testing.T, h *house) {
		first := h.watched(large/2, large/2, large/2, large)
		require.False(t, first(0), "of its ring")
		require.True(t, first(3))
		second := h.watched(large, large)
		require.False(t, first(3), "of the turns that ended")
		require.True(t, second(0))
		time.Sleep(server.ReplayKeep)
		require.False(t, second(0))
	})
}
