package server_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

// processed are the messages whose end was told.
func (c *client) processed() (ids []string) {
	for _, f := range c.frames() {
		if f.name == "delivery_update" && strings.HasSuffix(f.data.Get("status").Str, "PROCESSED") {
			ids = append(ids, f.data.Get("event_id").Str)
		}
	}
	return ids
}

func TestChannel_ATurnThatFailsNamesWhateverItWasGiven(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		turn := h.next(func(ctx context.Context, turn *turn) error {
			turn.sent()
			_ = turn.say(ctx, `{"type":"result","subtype":"success","user_message_uuids":["`+h.acquired[0].MessageUUID+`"]}`)
			<-turn.stopped
			return errSecret
		})
		ids := []string{uuid.NewString(), uuid.NewString(), uuid.NewString()}
		for _, id := range ids {
			accepted(t, h.tell(messageOf(id, "x")), 1)
			synctest.Wait()
		}
		turn.mu.Lock()
		turn.noSteering = true
		turn.mu.Unlock()
		later := uuid.NewString()
		accepted(t, h.tell(messageOf(later, "y")), 1)
		turn.stop()
		time.Sleep(time.Minute)
		frames := c.frames()
		var failed []string
		for _, f := range frames {
			if p := f.data.Get("payload"); p.Get("subtype").Str == "error_during_execution" {
				require.Equal(t, "the turn broke off in its middle", p.Get("errors.0").Str)
				require.Contains(t, p.Get("errors.1").Str, "may not have been read")
				for _, id := range p.Get("user_message_uuids").Array() {
					failed = append(failed, id.Str)
				}
			}
		}
		require.Equal(t, ids[1:], failed, "the first one has its result, and the last one a turn of its own")
		require.Equal(t, append(ids, later), c.processed())
		c.leave()
	})
}

// A message whose turn can't be begun takes no room once that is told.
func TestChannel_AMessageWithoutATurnIsNamedOnce(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		synctest.Wait() // it reads: that a message was processed isn't told again
		h.meanwhile(func(context.Context) error { return errSecret })
		accepted(t, h.tell(message("one")), 1)
		accepted(t, h.tell(message("two")), 1)
		synctest.Wait()
		require.Len(t, c.processed(), 2)
		c.leave()
	})
}

// early is a turn that can't be interrupted before its message is sent.
type early struct {
	*turn
	isSent bool
	tried  chan struct{} // an interrupt was in vain
}

func (e *early) Run(ctx context.Context, sent func(), emit func(context.Context, [][]byte) error) error {
	<-e.tried
	return e.turn.Run(ctx, func() { e.isSent = true; sent() }, emit)
}

func (e *early) Interrupt(ctx context.Context) error {
	if e.isSent {
		return e.turn.Interrupt(ctx)
	}
	return api.ErrNoTurn
}

func TestChannel_AnInterruptBeforeTheMessageIsSentHolds(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		turn := &early{turn: newTurn(hangs), tried: make(chan struct{})}
		h.nextTurn(turn)
		accepted(t, h.tell(message("one")), 1)
		synctest.Wait()
		accepted(t, h.tell(control("stop", `{"subtype":"interrupt"}`)), 1)
		require.Contains(t, c.payloads(), "success: stop")
		close(turn.tried)
		<-turn.released
		require.Equal(t, 1, turn.interrupted)
		c.leave()
	})
}
