package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// silent is a host that answers nothing by itself.
type silent struct {
	taking    Taking
	asked     []Ask
	withdrawn []string
}

func (h *silent) Asked(a Ask) Taking {
	h.asked = append(h.asked, a)
	return h.taking
}

func (h *silent) Withdrawn(id string) { h.withdrawn = append(h.withdrawn, id) }

func ask(id, subtype string) string {
	return fmt.Sprintf(`{"type":"control_request","request_id":%q,"request":{"subtype":%q,"tool_name":"Bash"}}`, id,
		subtype)
}

// answered is what the CLI gets next, which has to be the answer to that ask.
func (c *fakeCLI) answered(id, subtype string) string {
	c.t.Helper()
	line := c.next()
	require.Equal(c.t, "control_response", line.Get("type").Str)
	require.Equal(c.t, id, line.Get("response.request_id").Str)
	require.Equal(c.t, subtype, line.Get("response.subtype").Str)
	return line.Get("response.response").Raw + line.Get("response.error").Str
}

func TestAsk_IsRefusedWhereNobodyAnswers(t *testing.T) {
	for name, h := range map[string]Host{"there is no host": nil, "it takes nothing": &silent{}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				c.proc.SetHost(h)
				r := c.begin(t.Context(), nil)
				r.start()
				c.say(ask("a", "can_use_tool"), ask("b", "elicitation"))
				answers := map[string]string{}
				for range 2 {
					line := c.next()
					answers[line.Get("response.request_id").Str] = line.Get("response").Raw
				}
				require.Contains(t, answers["a"], `"behavior":"deny"`, "an error would read as one of the CLI's own")
				require.Contains(t, answers["a"], noHost)
				require.Contains(t, answers["b"], unknown)
				require.Empty(t, c.proc.Pending())
				r.result(success)
				require.NoError(t, r.end())
				require.NotContains(t, strings.Join(r.lines, ""), "control_request")
			})
		})
	}
}

func TestAsk_IsAnsweredOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		h := &silent{taking: Show}
		c.proc.SetHost(h)
		r := c.begin(t.Context(), nil)
		r.start()
		c.say(ask("a", "can_use_tool"))
		synctest.Wait()
		require.Len(t, c.proc.Pending(), 1)
		require.Contains(t, strings.Join(r.lines, ""), ask("a", "can_use_tool"), "as the CLI wrote it, in the run's order")
		require.NoError(t, c.proc.Answer("a", json.RawMessage(`{"behavior":"allow"}`)))
		require.JSONEq(t, `{"behavior":"allow"}`, c.answered("a", "success"))
		require.Equal(t, ErrNotAsked, c.proc.Answer("a", json.RawMessage(`{}`)))
		require.Equal(t, ErrNotAsked, c.proc.AnswerError("b", "no"))
		c.say(ask("c", "elicitation"))
		synctest.Wait()
		require.NoError(t, c.proc.AnswerError("c", "no"))
		require.Equal(t, "no", c.answered("c", "error"))
		require.Empty(t, h.withdrawn)
		r.result(success)
		require.NoError(t, r.end())
	})
}

func TestAsk_IsWithdrawnByTheCLI(t *testing.T) {
	for name, taking := range map[string]Taking{"shown": Show, "not shown": Take} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				h := &silent{taking: taking}
				c.proc.SetHost(h)
				r := c.begin(t.Context(), nil)
				r.start()
				c.say(ask("a", "can_use_tool"), `{"type":"control_cancel_request","request_id":"a"}`,
					`{"type":"control_cancel_request","request_id":"never asked"}`)
				synctest.Wait()
				require.Equal(t, []string{"a"}, h.withdrawn)
				require.Equal(t, ErrNotAsked, c.proc.Answer("a", json.RawMessage(`{}`)))
				r.result(success)
				require.NoError(t, r.end())
				shown := strings.Count(strings.Join(r.lines, ""), "control_")
				require.Equal(t, map[Taking]int{Show: 2, Take: 0}[taking], shown)
			})
		})
	}
}

func TestAsk_EndsWithTheProcess(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		h := &silent{taking: Take}
		c.proc.SetHost(h)
		c.say(ask("a", "mcp_message"))
		synctest.Wait()
		c.die()
		<-c.proc.Exited()
		synctest.Wait()
		require.Equal(t, []string{"a"}, h.withdrawn)
		require.Equal(t, ErrNotAsked, c.proc.Answer("a", json.RawMessage(`{}`)))
	})
}

// A hostile or broken program must not fill the service's memory.
func TestAsk_ThereIsABoundOnWhatIsPending(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.proc.SetHost(&silent{taking: Take})
		for i := range mostAsks + 3 {
			c.say(ask(fmt.Sprint(i), "elicitation"))
		}
		c.say(ask("0", "elicitation")) // which is pending already
		synctest.Wait()
		require.Len(t, c.proc.Pending(), mostAsks)
		for range 4 {
			require.Equal(t, "error", c.next().Get("response.subtype").Str)
		}
		long := strings.Repeat("x", askBytes)
		c.proc.dropAsks()
		c.say(ask("long"+long, "elicitation"))
		synctest.Wait()
		require.Empty(t, c.proc.Pending())
	})
}

func TestAsk_TimesStandStillWhileAnAnswerIsAwaited(t *testing.T) {
	short := func(l *Limits) { l.Turn, l.Silence, l.Approval = time.Minute, 10*time.Second, time.Hour }
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.proc.SetHost(&silent{taking: Take})
		r := c.begin(t.Context(), nil)
		r.start()
		end := c.call()
		defer end()
		c.say(ask("a", "can_use_tool"))
		time.Sleep(50 * time.Minute)
		require.True(t, r.runs())
		require.NoError(t, c.proc.Answer("a", json.RawMessage(`{"behavior":"allow"}`)))
		c.answered("a", "success")
		end()
		time.Sleep(59 * time.Second)
		require.True(t, r.runs(), "what it has waited doesn't count")
		time.Sleep(2 * time.Second)
		c.asked("interrupt")
		c.die()
		require.Equal(t, ErrTooLong, r.end())
	}, short)
}

// Or whoever never answers would have a turn for ever.
func TestAsk_ThereIsAnEndToStandingStill(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.proc.SetHost(&silent{taking: Take})
		r := c.begin(t.Context(), nil)
		r.start()
		for i := range 14 {
			c.say(ask(fmt.Sprint(i), "can_use_tool"))
			if i < 12 {
				time.Sleep(time.Minute + time.Second)
				c.answered(fmt.Sprint(i), "success")
				require.True(t, r.runs())
				continue
			}
			time.Sleep(40 * time.Second)
		}
		c.asked("interrupt")
		c.die()
		require.Equal(t, ErrTooLong, r.end())
	}, func(l *Limits) { l.Turn, l.Approval = time.Minute, time.Minute })
}

func TestAsk_WhatAHostLeavesIsDeclinedAndItsClientToldSo(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		one, other := &silent{taking: Show}, &silent{taking: Take}
		r := c.begin(t.Context(), nil)
		r.start()
		c.proc.SetHost(one)
		c.say(ask("a", "can_use_tool"))
		synctest.Wait()
		c.proc.SetHost(other)
		c.say(ask("b", "can_use_tool"))
		synctest.Wait()
		c.proc.DeclineAll(one)
		require.Contains(t, c.answered("a", "success"), noHost)
		synctest.Wait()
		require.Contains(t, strings.Join(r.lines, ""), `{"type":"control_cancel_request","request_id":"a"}`)
		require.Len(t, c.proc.Pending(), 1)
		r.result(success)
		require.NoError(t, r.end())
	})
}

func TestAsk_ACLIThatDoesNotReadItsAnswerIsKilled(t *testing.T) {
	grants := newGrants(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCLI(t, grants)
		c.proc.SetHost(&silent{taking: Take})
		c.say(ask("a", "can_use_tool"))
		synctest.Wait()
		require.Equal(t, ErrDied, c.proc.Answer("a", json.RawMessage(`{}`)))
		require.Equal(t, []syscall.Signal{syscall.SIGKILL}, c.sent())
	})
}

func TestAsk_NobodyIsWaitedForForEver(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		h := &silent{taking: Take}
		c.proc.SetHost(h)
		r := c.begin(t.Context(), nil)
		r.start()
		c.say(ask("a", "can_use_tool"))
		time.Sleep(time.Minute + time.Second)
		require.Contains(t, c.answered("a", "success"), noAnswer)
		require.Equal(t, []string{"a"}, h.withdrawn)
		require.Equal(t, ErrNotAsked, c.proc.Answer("a", json.RawMessage(`{"behavior":"allow"}`)))
		r.result(success)
		require.NoError(t, r.end())
	}, func(l *Limits) { l.Approval = time.Minute })
}

// What comes while tools run goes into the same turn; what comes too late for that is a turn of its own for the CLI.
func TestSteer_TheRunEndsWhenAllItsMessagesAreAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		require.Equal(t, ErrNoRun, c.proc.Steer("u0", json.RawMessage(`"x"`), ""))
		r := c.begin(t.Context(), nil)
		r.start()
		require.NoError(t, c.proc.Steer("u1", json.RawMessage(`"more"`), ""))
		require.NoError(t, c.proc.Steer("u2", json.RawMessage(`"now"`), "now"))
		more, now := c.next(), c.next()
		require.Equal(t, "more", more.Get("message.content").Str)
		require.False(t, more.Get("priority").Exists())
		require.Equal(t, "now", now.Get("priority").Str)
		c.say(fmt.Sprintf(`{"type":"result","user_message_uuids":[%q,"u1"],%s}`, r.uuid, success))
		require.True(t, r.runs())
		c.say(`{"type":"result","user_message_uuids":["u2"],` + success + `}`)
		require.NoError(t, r.end())
		require.Equal(t, 2, strings.Count(strings.Join(r.lines, ""), `"type":"result"`))
		require.Equal(t, ErrNoRun, c.proc.Steer("u3", json.RawMessage(`"x"`), ""))
	})
}

func TestInterruptRun_TheResultIsTheRuns(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		require.Equal(t, ErrNoRun, c.proc.InterruptRun(t.Context()))
		r := c.begin(t.Context(), nil)
		r.start()
		done := make(chan error, 1)
		go func() { done <- c.proc.InterruptRun(context.WithoutCancel(t.Context())) }()
		c.grant(c.asked("interrupt"), "{}")
		require.NoError(t, <-done)
		r.result(interrupted)
		require.NoError(t, r.end())
		require.Contains(t, strings.Join(r.lines, ""), "error_during_execution")
	})
}
