package server_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

// rarely is for tests whose client doesn't read: a timer that waits for a lock stops the clock.
var rarely = server.Tuning{Silence: 1000 * time.Hour}

func TestStream_AClientThatReadsSlowlyIsWaitedFor(t *testing.T) {
	inBubble(t, rarely, func(t *testing.T, h *house) {
		turn := h.next(says("one", "two"))
		c := h.send(ask{})
		c.stall()
		time.Sleep(time.Hour)
		require.False(t, turn.isReleased())
		require.Zero(t, c.due(), "there is no deadline")
		c.read()
		c.whole().answered(t, "one", "two")
	})
}

// The turn is over and its conversation free: the client may take its time.
func TestStream_ATurnThatWentWellHurriesNobody(t *testing.T) {
	inBubble(t, rarely, func(t *testing.T, h *house) {
		turn := h.next(func(ctx context.Context, t *turn) error {
			defer func() { <-t.stopped }()
			return says("one")(ctx, t)
		})
		c := h.send(ask{})
		time.Sleep(2 * time.Second)
		c.stall() // before the end mark
		turn.stop()
		time.Sleep(time.Hour)
		require.True(t, turn.isReleased())
		require.False(t, c.isOver())
		require.Zero(t, c.due())
		c.read()
		c.whole().answered(t, "one")
	})
}

func TestStream_AClientThatNeverReadsIsGivenUpWhenItsTurnIsEnded(t *testing.T) {
	inBubble(t, rarely, func(t *testing.T, h *house) {
		var failed error
		turn := h.next(func(ctx context.Context, t *turn) error {
			t.sent()
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			failed = t.say(ctx, "one")
			return errors.Join(failed, api.Unavailable(0, "the turn took too long"))
		})
		c := h.send(ask{stalled: true})
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, server.LastWords, c.due())
		require.False(t, turn.isReleased())
		time.Sleep(server.LastWords)
		synctest.Wait()
		require.True(t, turn.isReleased())
		require.ErrorIs(t, failed, os.ErrDeadlineExceeded)
		<-c.ended
		require.Empty(t, c.soFar().body)
	})
}

func TestStream_AClientThatNeverReadsIsNotToldOfAFailureForLong(t *testing.T) {
	inBubble(t, rarely, func(t *testing.T, h *house) {
		turn := h.next(func(ctx context.Context, t *turn) error {
			return errors.Join(hangs(ctx, t), errSecret)
		})
		c := h.send(ask{})
		synctest.Wait()
		c.stall()
		turn.stop()
		time.Sleep(server.LastWords - 1)
		require.False(t, c.isOver())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.True(t, c.isOver())
		require.Empty(t, c.soFar().events)
	})
}

func TestStream_AClientThatIsBehindIsToldWhyItsTurnWasEnded(t *testing.T) {
	inBubble(t, rarely, func(t *testing.T, h *house) {
		h.next(func(ctx context.Context, t *turn) error {
			t.sent()
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return errors.Join(t.say(ctx, "one"), api.Unavailable(0, "the turn took too long"))
		})
		c := h.send(ask{stalled: true})
		time.Sleep(time.Minute + server.LastWords - time.Millisecond)
		c.read()
		require.Equal(t, "the turn took too long", c.whole().failed(t, "one"))
	})
}

// A client that has gone without closing its connection altogether keeps no turn, which may not know of it.
func TestStream_AClientThatGoesWithoutReadingIsWaitedForNoLonger(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(func(ctx context.Context, t *turn) error {
			t.sent()
			return t.say(ctx, "one")
		})
		c := h.send(ask{stalled: true})
		time.Sleep(time.Second)
		c.cancel()
		time.Sleep(server.LastWords + time.Millisecond)
		synctest.Wait()
		require.True(t, turn.isReleased())
	})
}

// A ping that the client doesn't read holds up the first lines, which nobody has hurried yet.
func TestStream_AClientThatDoesntEvenReadPingsIsGivenUpToo(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(func(ctx context.Context, t *turn) error {
			t.sent()
			time.Sleep(server.PingInterval + time.Second)
			ctx, cut := context.WithCancelCause(ctx)
			cut(errors.New("the turn took too long")) // now, as the clock stands while lines wait for the ping
			return t.say(ctx, "one")
		})
		c := h.send(ask{stalled: true})
		c.change(func() { c.hasty = true })
		<-c.ended
		require.True(t, turn.isReleased())
		require.Equal(t, server.LastWords, c.due())
	})
}

func TestStream_AResponseThatIsOverIsNotHurried(t *testing.T) {
	for closed, want := range map[bool]time.Duration{false: server.LastWords, true: 0} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t)
			server.Hurry(c, closed)
			require.Equal(t, want, c.due())
		})
	}
}
