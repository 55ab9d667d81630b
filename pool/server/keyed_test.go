package server_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

// again is a request with an idempotency key.
var again = ask{key: "a-key"}

func (r reply) isBegun() bool { return r.header.Get(api.HeaderBegun) != "" }

func TestKey_WhoSendsTheRequestAgainJoinsItsTurnFromTheBeginning(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.next(says(numbers(9)...))
		first := h.send(again)
		time.Sleep(4500 * time.Millisecond)
		second := h.send(again)
		synctest.Wait()
		require.Equal(t, numbers(9)[:4], second.soFar().events)
		first.whole().answered(t, numbers(9)...)
		second.whole().answered(t, numbers(9)...)
		require.Equal(t, 1, h.asked())
		require.Zero(t, h.held, "who reads keeps nobody here")
	})
}

func TestKey_ATurnGoesOnWithoutItsClientAndIsReplayedForTenMinutes(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(says(numbers(60)...))
		c := h.send(again)
		time.Sleep(1500 * time.Millisecond)
		c.leave()
		<-turn.released
		for range 9 {
			time.Sleep(time.Minute)
			r := h.send(again).whole()
			r.answered(t, numbers(60)...)
			require.True(t, r.receipt.Exists())
			require.Equal(t, "7", r.header.Get(api.HeaderPID))
		}
		require.Equal(t, 1, h.asked())
		time.Sleep(time.Minute + 1)
		h.send(again).whole().answered(t, "hello")
		require.Equal(t, 2, h.asked(), "after ten minutes it is a new one")
	})
}

func TestKey_IsForOneRequestOfOneUser(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(hangs)
		first := h.send(again)
		for range 2 { // while the turn runs, and afterwards
			synctest.Wait()
			for name, other := range map[string]ask{
				"body":     {key: again.key, more: `,"model":"haiku"`},
				"original": {key: again.key, original: "of another shape"},
			} {
				r := h.send(other).whole()
				require.Contains(t, r.refused(t, http.StatusBadRequest), "another request", name)
			}
			if !first.isOver() {
				turn.stop()
				first.whole()
			}
		}
		h.send(ask{key: again.key, user: "bob"}).whole().answered(t, "hello")
		h.send(ask{key: "another"}).whole().answered(t, "hello")
		h.send(ask{}).whole().answered(t, "hello")
		require.Equal(t, 4, h.asked())
	})
}

func TestKey_AFailedTurnIsReplayedAsFailed(t *testing.T) {
	for name, err := range map[string]error{"known": api.BadGateway("too bad"), "unknown": errSecret} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			h.next(func(ctx context.Context, t *turn) error { return errors.Join(says("one")(ctx, t), err) })
			h.next(fails(err))
			for range 2 {
				said := h.send(again).whole().failed(t, "one")
				require.NotContains(t, said, "secret", name)
				r := h.send(ask{key: "silent"}).whole()
				require.NotContains(t, r.refused(t, r.status), "secret")
				require.True(t, r.isBegun())
			}
			require.Equal(t, 2, h.asked())
		})
	}
}

func TestKey_OfWhatNeverBeganIsNotKept(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		for _, err := range []error{errDraining, errNotOwner, api.Overloaded(time.Second, "full"), errSecret} {
			h.meanwhile(func(context.Context) error { return err })
			r := h.send(again).whole()
			require.NotEqual(t, http.StatusOK, r.status)
			require.False(t, r.isBegun())
		}
		h.meanwhile(nil)
		h.send(ask{key: again.key, more: finish}).whole().answered(t, "hello")
		require.Zero(t, h.held)

		h.refuses = errNotOwner
		require.Equal(t, http.StatusMisdirectedRequest, h.send(again).whole().status)
	})
}

func TestKey_WhoWaitsForOneThatWaitsComesNext(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.meanwhile(func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Minute):
				return nil
			}
		})
		first := h.send(again)
		synctest.Wait()
		second, third := h.send(again), h.send(again)
		synctest.Wait()
		require.Equal(t, 1, h.asked())
		first.leave()
		synctest.Wait()
		require.Equal(t, 2, h.asked(), "it left the line, and so one of the others is in it")
		second.whole().answered(t, "hello")
		third.whole().answered(t, "hello")
		require.Equal(t, 2, h.asked())
		require.Zero(t, h.held)
	})
}

func TestKey_FewWaitForOneThatWaits(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		begin := make(chan struct{})
		h.meanwhile(func(context.Context) error { <-begin; return nil })
		first := h.send(again)
		synctest.Wait()
		var others []*client
		for range server.ReadersOfKey {
			others = append(others, h.send(again))
		}
		synctest.Wait()
		h.send(again).whole().refused(t, http.StatusTooManyRequests)
		others[0].leave()
		synctest.Wait()
		others[0] = h.send(again)
		synctest.Wait()
		close(begin)
		for _, c := range append(others, first) {
			c.whole().answered(t, "hello")
		}
		require.Equal(t, 1, h.asked())
	})
}

func TestKey_OfAnAnswerThatIsTooLargeItIsKeptThatItWasUsed(t *testing.T) {
	inBubble(t, ringOf(3), func(t *testing.T, h *house) {
		h.next(says(numbers(9)...))
		first := h.send(again)
		time.Sleep(5500 * time.Millisecond)
		for range 2 { // while the turn runs, and afterwards
			r := h.send(again).whole()
			require.Contains(t, r.refused(t, http.StatusConflict), "was run before")
			require.True(t, r.isBegun())
			first.whole().answered(t, numbers(9)...)
		}
		require.Equal(t, 1, h.asked())
	})
}

func TestKey_FewReadOneAnswerAtATime(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(hangs)
		all := []*client{h.send(again)}
		for range server.ReadersOfKey {
			synctest.Wait()
			all = append(all, h.send(again))
		}
		synctest.Wait()
		r := h.send(again).whole()
		require.Contains(t, r.refused(t, http.StatusTooManyRequests), "at a time")
		require.False(t, r.isBegun())
		all[1].leave()
		all = append(all[:1], append(all[2:], h.send(again))...)
		synctest.Wait()
		turn.stop()
		for _, c := range all {
			c.whole().answered(t)
		}
	})
}
