package server_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

func TestStream_OpensAsSoonAsTheMessageHasBeenSent(t *testing.T) {
	for _, more := range []string{"", finish} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			h.meanwhile(func(context.Context) error { time.Sleep(server.QueueGrace - time.Second); return nil })
			turn := h.next(hangs)
			turn.receipt = api.Receipt{Process: "standby", PID: 7, Queue: 1500, Ready: 250}
			c := h.send(ask{more: more})
			time.Sleep(server.QueueGrace - 2*time.Second)
			require.Zero(t, c.soFar().status)
			time.Sleep(time.Second)
			synctest.Wait()
			r := c.soFar()
			require.Equal(t, 200, r.status)
			for key, want := range map[string]string{"Content-Type": "text/event-stream",
				"Cache-Control":     "no-cache, no-transform",
				"X-Accel-Buffering": "no", api.HeaderRequestID: "req_1", api.HeaderInstance: "i1", api.HeaderPID: "7",
				api.HeaderProcess: "standby", api.HeaderTiming: "queue;dur=1500.0, ready;dur=250.0"} {
				require.Equal(t, want, r.header.Get(key), key)
			}
			require.Equal(t, more == finish, r.header.Get(api.HeaderTurn) != "")
			require.Empty(t, r.body)
			turn.stop()
			c.whole().answered(t)
		})
	}
}

func TestStream_OpensInTheQueueWithPingsOnly(t *testing.T) {
	for _, more := range []string{"", finish} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			const waits = time.Minute
			h.meanwhile(func(context.Context) error { time.Sleep(waits); return nil })
			h.next(says("one")).receipt = api.Receipt{Process: "cold", PID: 7, Queue: 60_000}
			c := h.send(ask{more: more})
			time.Sleep(server.QueueGrace - 1)
			require.Zero(t, c.soFar().status)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			require.Equal(t, 200, c.soFar().status)
			require.Equal(t, "text/event-stream", c.soFar().header.Get("Content-Type"))
			require.Empty(t, c.soFar().header.Get(api.HeaderPID), "which process it will be isn't known")
			for i := range 3 {
				time.Sleep(server.PingInterval - 1)
				require.Equal(t, i, c.soFar().pings)
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.Equal(t, strings.Repeat(api.Ping, i+1), c.soFar().body)
			}
			r := c.whole()
			r.answered(t, "one")
			require.Equal(t, "cold", r.receipt.Get("process").Str, "the receipt has it")
			require.Empty(t, r.header.Get(api.HeaderPID))
		})
	}
}

func TestStream_AnErrorAfterTheGraceIsAnEvent(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.meanwhile(func(context.Context) error {
			time.Sleep(server.QueueGrace + 1)
			return api.RateLimited(time.Second, "waited too long")
		})
		r := h.send(ask{}).whole()
		require.Len(t, r.events, 1)
		require.Contains(t, r.events[0], "waited too long")
		require.Contains(t, r.body, api.NotBegun)
		require.True(t, r.done)
		require.False(t, r.receipt.Exists(), "there is no process")
	})
}

func TestStream_AnErrorOfATurnThatRanIsNotSaidToBeNone(t *testing.T) {
	for _, more := range []string{"", finish} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			h.next(func(_ context.Context, turn *turn) error {
				turn.sent()
				time.Sleep(2 * server.QueueGrace)
				return api.RateLimited(time.Second, "too much")
			})
			r := h.send(ask{more: more}).whole()
			require.Len(t, r.events, 1)
			require.NotContains(t, r.body, api.NotBegun)
			if turn := r.header.Get(api.HeaderTurn); turn != "" {
				require.NotContains(t, h.send(ask{path: api.PathResume, lastEvent: turn}).whole().body, api.NotBegun)
			}
		})
	}
}

func TestStream_PingsOnlyWhenSilentAndNeverAfterTheEnd(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.next(func(ctx context.Context, t *turn) error {
			t.sent()
			for i := range 10 {
				time.Sleep(server.PingInterval - time.Second)
				if err := t.say(ctx, fmt.Sprint("talk ", i)); err != nil {
					return err
				}
			}
			time.Sleep(2*server.PingInterval + time.Second)
			return t.say(ctx, "end")
		})
		r := h.send(ask{}).whole()
		require.Len(t, r.events, 11)
		talk, silence, _ := strings.Cut(r.body, "data: talk 9\n\n")
		require.NotContains(t, talk, api.Ping)
		require.True(t, strings.HasPrefix(silence, api.Ping+api.Ping+"data: end\n\n: receipt "), silence)
		time.Sleep(time.Hour) // a client that is touched now complains
	})
}

func TestStream_EndsWithAReceiptAndTheEndMark(t *testing.T) {
	for _, more := range []string{"", finish} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			h.meanwhile(func(context.Context) error { time.Sleep(1750 * time.Millisecond); return nil })
			h.next(func(ctx context.Context, t *turn) error {
				t.sent()
				time.Sleep(1500 * time.Microsecond)
				_ = t.say(ctx, `{"a":1}`, `{"b":2}`)
				time.Sleep(time.Second)
				return t.say(ctx, `{"c":3}`)
			}).receipt = api.Receipt{Process: "reused", PID: 7, Queue: 1500, Ready: 250, Context: "kept",
				Usage: &api.Usage{InputTokens: 1, OutputTokens: 2, CacheReadTokens: 3,
					CacheCreationTokens: 4}, CostUSD: 0.5, APICalls: 6}
			r := h.send(ask{more: more}).whole()
			r.answered(t, `{"a":1}`, `{"b":2}`, `{"c":3}`)
			const end = ": receipt " + `{"process":"reused","pid":7,"instance":"i1","queue_ms":1500,"ready_ms":250,` +
				`"first_event_ms":1751.5,"total_ms":2751.5,"context":"kept",` +
				`"usage":{"input_tokens":1,"output_tokens":2,"cache_read_input_tokens":3,"cache_creation_input_tokens":4},` +
				`"cost_usd":0.5,"api_calls":6}` +
				"\n" + api.Done
			if more == "" {
				require.Equal(t, "data: {\"a\":1}\n\ndata: {\"b\":2}\n\ndata: {\"c\":3}\n\n"+end, r.body)
				return
			}
			turn := r.header.Get(api.HeaderTurn)
			require.Equal(t, []string{turn + ".1", turn + ".2", turn + ".3"}, r.ids)
			require.True(t, strings.HasSuffix(r.body, "\n\n"+end), r.body)
		})
	}
}

// A process may turn out to have died before it took the message up; then another one answers.
func TestStream_TheReceiptNamesTheProcessThatAnswered(t *testing.T) {
	twice := func(ctx context.Context, t *turn) error {
		t.sent()
		time.Sleep(time.Second)
		t.receipt = api.Receipt{Process: "resumed", PID: 8, Ready: 900}
		return says("one")(ctx, t)
	}
	for _, more := range []string{"", finish} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			h.next(twice)
			c := h.send(ask{more: more})
			synctest.Wait()
			require.Equal(t, "7", c.soFar().header.Get(api.HeaderPID))
			r := c.whole()
			r.answered(t, "one")
			const want = `{"process":"resumed","pid":8,"instance":"i1","queue_ms":0,"ready_ms":900,` +
				`"first_event_ms":2000,"total_ms":2000,"context":"","cost_usd":0,"api_calls":0}`
			require.Equal(t, want, r.receipt.Raw)
			if more == "" {
				return
			}
			again := h.resume(r.header.Get(api.HeaderTurn), 0).whole()
			again.answered(t, "one")
			require.Equal(t, "8", again.header.Get(api.HeaderPID))
			require.Equal(t, "resumed", again.header.Get(api.HeaderProcess))
			require.Equal(t, strings.ReplaceAll(want, ":2000", ":0"), again.receipt.Raw, "times are the request's own")
		})
	}
}

func TestReplay_WhoTakesATurnUpInTimeIsToldOfItsSecondProcessToo(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.next(func(ctx context.Context, t *turn) error {
			t.sent()
			time.Sleep(time.Minute)
			t.receipt.PID = 8
			return says("one")(ctx, t)
		})
		c := h.send(ask{more: finish})
		synctest.Wait()
		c.hangUp()
		<-c.ended
		r := h.resume(c.soFar().header.Get(api.HeaderTurn), 0).whole()
		r.answered(t, "one")
		require.Equal(t, "7", r.header.Get(api.HeaderPID), "it was so then")
		require.Equal(t, 8.0, r.receipt.Get("pid").Num)
		require.Equal(t, 61_000.0, r.receipt.Get("first_event_ms").Num)
	})
}
