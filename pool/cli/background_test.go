package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What a CLI says of its state and of what goes on beside its turns. The former is for this service alone.
const (
	running = `{"type":"system","subtype":"session_state_changed","state":"running"}`
	idle    = `{"type":"system","subtype":"session_state_changed","state":"idle"}`
)

func tasksLine(n int) string {
	return `{"type":"system","subtype":"background_tasks_changed","tasks":[` +
		strings.TrimSuffix(strings.Repeat("{},", n), ",") + `]}`
}

// ownResult is that of a turn in which the CLI tells the model of a task.
func ownResult(text string, tokens int) string {
	return fmt.Sprintf(`{"type":"result","origin":{"kind":"task-notification"},"subtype":"success","is_error":false,`+
		`"result":%q,`+
		`"model_usage_since_last_result":{"m":{"inputTokens":%d}}}`, text, tokens)
}

// waiting runs a test with a CLI that may work in the background.
func waiting(t *testing.T, test func(t *testing.T, c *fakeCLI)) {
	t.Helper()
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.proc.inForce.Background = true
		test(t, c)
	})
}

func TestBackground_ARunEndsWithTheResultAfterWhichNothingIsLeft(t *testing.T) {
	waiting(t, func(t *testing.T, c *fakeCLI) {
		c.say(idle)
		r := c.begin(t.Context(), nil)
		c.say(running)
		r.start()
		first := `"subtype":"success","is_error":false,"result":"one ",` +
			`"model_usage_since_last_result":{"m":{"inputTokens":1}}`
		c.say(tasksLine(2))
		r.result(first)
		c.say(idle)
		require.True(t, r.runs(), "two tasks are left")
		c.say(tasksLine(1), running, initLine, ownResult("two ", 10))
		require.True(t, r.runs(), "the CLI isn't idle")
		c.say(idle)
		time.Sleep(time.Hour)
		require.True(t, r.runs(), "one task is left, however long it takes")
		c.say(tasksLine(0))
		time.Sleep(reportTimeout / 2)
		c.say(running, initLine)
		time.Sleep(time.Hour)
		require.True(t, r.runs(), "the CLI tells the model of it")
		c.say(assistant, ownResult("three", 100), idle)
		require.NoError(t, r.end())
		require.Equal(t, []string{initLine, tasksLine(2), r.resultLine(first), tasksLine(1), initLine, ownResult("two ", 10),
			tasksLine(0), initLine, assistant, ownResult("three", 100)}, r.lines)
		require.True(t, r.outcome.Good())
		require.Equal(t, r.outcome, *r.ends[len(r.ends)-1])
		require.Contains(t, r.lastBatch, ownResult("three", 100), "who has the last result may rely on the turn's being over")
		require.EqualValues(t, 111, r.outcome.Usage.InputTokens)
		require.Equal(t, "one two three", r.outcome.Answer.Results())
		require.Equal(t, "a1", r.outcome.Mark)
		c.answerIdle()
	})
}

// answerIdle has a run that goes well and begins nothing.
func (c *fakeCLI) answerIdle() {
	c.t.Helper()
	r := c.begin(c.t.Context(), nil)
	r.start()
	r.result(success)
	c.say(idle)
	require.NoError(c.t, r.end())
	require.True(c.t, r.outcome.Good())
}

func TestBackground_TheLastResultTellsHowItWent(t *testing.T) {
	for name, want := range map[string]struct {
		last string
		good bool
	}{
		"good": {ownResult("fine", 1), true},
		"bad":  {`{"type":"result","subtype":"success","is_error":true,"result":"overloaded"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			waiting(t, func(t *testing.T, c *fakeCLI) {
				r := c.begin(t.Context(), nil)
				r.start()
				c.say(tasksLine(1))
				r.result(`"subtype":"success","is_error":true,"result":"overloaded"`)
				c.say(idle, tasksLine(0), running, want.last, idle)
				require.NoError(t, r.end())
				require.Equal(t, want.good, r.outcome.Good())
				r.lifecycle("completed")
				began := time.Now()
				require.Equal(t, want.good, c.proc.Rewind(t.Context()), "nobody knows what a task has begun, nor can undo it")
				require.Zero(t, time.Since(began))
				c.idle()
			})
		})
	}
}

func TestBackground_ATaskOfWhichTheModelIsNotToldEndsTheRunAllTheSame(t *testing.T) {
	waiting(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), nil)
		r.start()
		c.say(tasksLine(1))
		r.result(success)
		c.say(idle, tasksLine(0))
		began := time.Now()
		require.NoError(t, r.end())
		require.Equal(t, reportTimeout, time.Since(began))
		require.Equal(t, r.resultLine(success), string(r.outcome.Result.Raw))
		require.True(t, r.outcome.Good())
		require.True(t, c.proc.Unusable(), "it may be told yet")
	})
}

func TestBackground_WhatTheModelIsToldLaterIsStillOfTheRun(t *testing.T) {
	waiting(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), nil)
		r.start()
		c.say(tasksLine(1))
		r.result(success)
		c.say(idle, tasksLine(0))
		time.Sleep(reportTimeout / 2)
		c.say(running, tasksLine(1), ownResult("another", 1), idle, tasksLine(0))
		time.Sleep(reportTimeout * 3 / 4)
		require.True(t, r.runs(), "the CLI has as long for each")
		c.say(running, ownResult("last", 1), idle)
		require.NoError(t, r.end())
		require.Contains(t, r.lastBatch, ownResult("last", 1))
	})
}

// With the turn all of it ends: an interrupt would leave it running.
func TestBackground_WhatAnAbandonedRunLeftRunningDiesWithItsProcess(t *testing.T) {
	waiting(t, func(t *testing.T, c *fakeCLI) {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := c.begin(ctx, nil)
		r.start()
		c.say(tasksLine(1))
		r.result(success)
		c.say(idle)
		require.True(t, r.runs())
		began := time.Now()
		cancel(errGone)
		require.ErrorIs(t, r.end(), errGone)
		require.Zero(t, time.Since(began))
		require.Equal(t, []syscall.Signal{syscall.SIGKILL}, c.sent())
		require.Nil(t, r.outcome.Result, "it has no last one")
		require.False(t, c.proc.Rewind(t.Context()))
	})
}

func TestBackground_ADeathBetweenResultsIsOne(t *testing.T) {
	waiting(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), nil)
		r.start()
		c.say(tasksLine(1))
		r.result(success)
		c.say(idle)
		require.True(t, r.runs())
		c.die()
		require.ErrorIs(t, r.end(), ErrDied)
		require.Nil(t, r.outcome.Result)
		for _, end := range r.ends {
			require.Nil(t, end)
		}
	})
}

func TestBackground_AnInterruptThatLeavesNothingKeepsTheProcess(t *testing.T) {
	waiting(t, func(t *testing.T, c *fakeCLI) {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := c.begin(ctx, nil)
		r.start()
		cancel(errors.New("gone"))
		for range 2 {
			c.grant(c.asked("interrupt"), "{}")
		}
		r.result(interrupted)
		require.True(t, r.runs(), "the CLI isn't idle yet")
		c.say(idle, idle)
		require.Error(t, r.end())
		require.Empty(t, c.sent())
		c.proc.detach()
		c.answerIdle()
	})
}

// Where nothing may outlive the turn, nobody waits for it.
func TestBackground_WithoutWaitingTheFirstResultIsTheLast(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), nil)
		r.start()
		c.say(tasksLine(1), ownResult("of nobody", 1))
		r.result(success)
		require.NoError(t, r.end())
		synctest.Wait()
		require.Equal(t, []string{initLine, tasksLine(1), r.resultLine(success)}, r.lines)
	})
}
