package server_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

// numbers are n lines.
func numbers(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf("line %03d", i+1))
	}
	return lines
}

// begin begins a turn that goes on without its client, and returns its id when its stream has been opened.
func (h *house) begin(s script) (*turn, *client, string) {
	h.t.Helper()
	turn := h.next(s)
	c := h.send(ask{more: finish})
	synctest.Wait()
	id := c.soFar().header.Get(api.HeaderTurn)
	require.NotEmpty(h.t, id)
	return turn, c, id
}

// leave hangs up, and returns what has been read.
func (c *client) leave() reply {
	c.hangUp()
	return c.whole()
}

func TestReplay_AStreamThatIsCutTenTimesArrivesWholeAndItsTurnRanOnce(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		const n = 60
		turn, c, id := h.begin(says(numbers(n)...))
		var events, ids []string
		for cut := range 10 {
			time.Sleep(time.Duration(cut) * 1100 * time.Millisecond) // also before anything new has come
			synctest.Wait()
			r := c.leave()
			events, ids = append(events, r.events...), append(ids, r.ids...)
			time.Sleep(500 * time.Millisecond)
			c = h.resume(id, len(ids))
			synctest.Wait()
			require.Equal(t, "7", c.soFar().header.Get(api.HeaderPID))
			require.Equal(t, id, c.soFar().header.Get(api.HeaderTurn))
		}
		r := c.whole()
		require.True(t, r.done)
		require.True(t, r.receipt.Exists())
		require.NotEmpty(t, r.events)
		require.Equal(t, numbers(n), append(events, r.events...), "nothing twice, nothing lost")
		for i, got := range append(ids, r.ids...) {
			require.Equal(t, fmt.Sprint(id, ".", i+1), got)
		}
		require.Equal(t, 1, h.asked(), "the turn ran once")
		h.server.Close()
		require.True(t, turn.isReleased())
		whole := h.resume(id, 0).whole()
		whole.answered(t, numbers(n)...)
		h.resume(id, n).whole().answered(t)
	})
}

func TestReplay_ATurnGoesOnWithoutItsClientAndCloseWaitsForIt(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn, c, id := h.begin(says(numbers(60)...))
		c.leave()
		began := time.Now()
		time.Sleep(50 * time.Second)
		require.False(t, turn.isReleased())
		h.server.Close()
		require.Equal(t, time.Minute, time.Since(began))
		require.True(t, turn.isReleased())
		h.resume(id, 58).whole().answered(t, "line 059", "line 060")
	})
}

func TestReplay_WithoutOnDisconnectAHangUpInterrupts(t *testing.T) {
	for _, more := range []string{"", `,"on_disconnect":"interrupt"`} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			turn := h.next(says(numbers(60)...))
			c := h.send(ask{more: more})
			time.Sleep(1500 * time.Millisecond)
			r := c.leave()
			require.Empty(t, r.header.Get(api.HeaderTurn))
			require.Equal(t, []string{""}, r.ids)
			require.True(t, turn.isReleased())
		})
	}
}

func TestReplay_IsForItsUserAndForEventsThatThereAre(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		_, c, turn := h.begin(says("one", "two"))
		c.whole().answered(t, "one", "two")
		renewed := fmt.Sprintf(`{"oauth_credentials":{"access_token":%q,"previous_access_token":%q}}`,
			token("new"), token("ada"))
		for name, test := range map[string]struct {
			user, body, id string
			status         int
		}{
			"another user":                {"bob", "", turn + ".0", 404},
			"who had this token before":   {"new", renewed, turn + ".0", 404},
			"unknown turn":                {"ada", "", "nothing.0", 404},
			"event to come":               {"ada", "", turn + ".3", 404},
			"no id":                       {"ada", "", "", 400},
			"no number":                   {"ada", "", turn + ".", 400},
			"no turn":                     {"ada", "", ".1", 400},
			"negative number":             {"ada", "", turn + ".-1", 400},
			"number and space":            {"ada", "", turn + ". 1", 400},
			"number that is too large":    {"ada", "", turn + ".99999999999999999999", 400},
			"the largest number there is": {"ada", "", turn + ".9223372036854775807", 404},
		} {
			r := h.send(ask{path: api.PathResume, user: test.user, body: test.body, lastEvent: test.id}).whole()
			require.NotEmpty(t, r.refused(t, test.status), name)
		}
		h.resume(turn, 1).whole().answered(t, "two")
		h.send(ask{path: api.PathResume, lastEvent: turn}).whole().answered(t, "one", "two")
		require.Equal(t, 1, h.asked(), "to take a turn up is nothing to the backend")
	})
}

func TestReplay_AStreamThatWasTakenUpIsNeverSilentForLong(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn, c, id := h.begin(hangs)
		c.leave()
		c = h.resume(id, 0)
		time.Sleep(2*server.PingInterval + 1)
		require.Equal(t, api.Ping+api.Ping, c.soFar().body)
		turn.stop()
		c.whole().answered(t)
	})
}

func TestReplay_WhoTakesUpATurnThatFailedIsToldSo(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		_, c, id := h.begin(func(ctx context.Context, t *turn) error {
			return errors.Join(says("one")(ctx, t), api.BadGateway("too bad"))
		})
		c.leave()
		for range 2 {
			require.Equal(t, "too bad", h.resume(id, 0).whole().failed(t, "one"))
		}
	})
}

func TestReplay_ALaterReaderDisplacesTheOneBeforeAndGoesOn(t *testing.T) {
	ring := rarely
	ring.ReplayBytes = 20 // two lines
	inBubble(t, ring, func(t *testing.T, h *house) {
		turn, first, id := h.begin(says(numbers(9)...))
		time.Sleep(2500 * time.Millisecond)
		second := h.resume(id, 1)
		require.Equal(t, "another request has taken this stream up", first.whole().failed(t, "line 001", "line 002"))
		second.stall()
		time.Sleep(time.Hour)
		require.False(t, turn.isReleased(), "the second one is waited for, though the first is gone")
		second.read()
		second.whole().answered(t, numbers(9)[1:]...)
	})
}
