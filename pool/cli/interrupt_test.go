package cli

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// beginAndHangUp begins a run whose client hangs up when the CLI has been told the message and done what it does.
func (c *fakeCLI) beginAndHangUp(does func(*run)) *run {
	c.t.Helper()
	ctx, hangUp := context.WithCancelCause(c.t.Context())
	r := c.begin(ctx, nil)
	does(r)
	synctest.Wait()
	hangUp(errGone)
	return r
}

// The CLI ignores an interrupt that comes before the turn has begun.
func TestInterrupt_IsRepeatedWhenTheTurnBegins(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.beginAndHangUp(func(r *run) { r.lifecycle("started") })
		c.grant(c.asked("interrupt"), "{}")
		time.Sleep(time.Second / 2)
		c.idle()
		require.True(t, r.runs())
		c.say(initLine)
		c.grant(c.asked("interrupt"), "{}")
		c.say(event)
		require.True(t, r.runs())
		r.result(interrupted)
		require.Equal(t, errGone, r.end())
		require.Empty(t, r.lines)
		require.True(t, r.outcome.Started)
		require.Empty(t, c.sent())
	})
}

func TestInterrupt_ATurnMayEndWithoutHavingBegun(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.beginAndHangUp(func(r *run) { r.lifecycle("started") })
		c.grant(c.asked("interrupt"), "{}")
		r.result(interrupted)
		c.grant(c.asked("interrupt"), "{}")
		require.Equal(t, errGone, r.end())
		require.Empty(t, c.sent())
	})
}

// It would end the next turn.
func TestInterrupt_ItsAnswerIsAwaitedWhateverTheTurnsEnd(t *testing.T) {
	for _, says := range []string{interrupted, success} {
		bubble(t, func(t *testing.T, c *fakeCLI) {
			r := c.beginAndHangUp((*run).start)
			first, second := c.asked("interrupt"), c.asked("interrupt")
			r.result(says)
			c.grant(second, "{}")
			require.True(t, r.runs())
			c.grant(first, "{}")
			require.Equal(t, errGone, r.end())
			require.NotNil(t, r.outcome.Result)
			require.NotNil(t, c.proc.turn, "nobody has got it: it has to be rewound, whatever it is")
			require.Empty(t, c.sent())
		})
	}
}

func TestInterrupt_AProcessThatDoesntComplyIsKilled(t *testing.T) {
	for name, want := range map[string]struct {
		begins, then func(*run)
		after        time.Duration
	}{
		"not begun": {func(*run) {}, func(r *run) { r.c.grant(r.c.asked("interrupt"), "{}") }, time.Second},
		"deaf":      {(*run).start, func(*run) {}, time.Second},
		"no result": {(*run).start, func(r *run) { r.c.grant(r.c.asked("interrupt"), "{}") }, time.Second},
		"no answer": {(*run).start, func(r *run) { r.c.asked("interrupt"); r.result(interrupted) }, time.Second},
		"refuses": {(*run).start, func(r *run) {
			r.c.refuse(r.c.asked("interrupt"), "no")
			r.c.refuse(r.c.asked("interrupt"), "no")
			r.result(success)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				r := c.beginAndHangUp(want.begins)
				began := time.Now()
				want.then(r)
				require.Equal(t, errGone, r.end())
				require.Equal(t, want.after, time.Since(began))
				require.Equal(t, []syscall.Signal{syscall.SIGKILL}, c.sent())
				<-c.proc.Exited()
				require.False(t, c.proc.Rewind(t.Context()))
			})
		})
	}
}

// The process dies with what was to interrupt it.
func TestInterrupt_ADeathIsNoReasonToWait(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.beginAndHangUp((*run).start)
		began := time.Now()
		c.asked("interrupt")
		c.die()
		require.Equal(t, errGone, r.end())
		require.Zero(t, time.Since(began))
	})
}

func TestInterrupt_WhatIsOverIsNotInterrupted(t *testing.T) {
	for range 20 { // which of the two is seen first is left to chance
		bubble(t, func(t *testing.T, c *fakeCLI) {
			ctx, hangUp := context.WithCancelCause(t.Context())
			r := c.begin(ctx, func(_ context.Context, _ [][]byte, end *Outcome) error {
				if end != nil {
					hangUp(errGone)
				}
				return nil
			})
			r.start()
			r.result(success)
			require.NoError(t, r.end(), "it has been told")
			r.lifecycle("completed")
			require.True(t, c.proc.Rewind(t.Context()))
			c.idle()
			c.answer()
		})
	}
}

// While the client is behind, its turn is cut short and ends one way or another before the client has caught up.
func TestRun_OneThatWasCutShortEndsWithTheReason(t *testing.T) {
	for name, ends := range map[string]func(*run){
		"killed":                func(r *run) { r.c.die() },
		"answered all the same": func(r *run) { r.result(success) },
		"interrupted":           func(r *run) { r.result(interrupted) },
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 { // whichever way select goes
				bubble(t, func(t *testing.T, c *fakeCLI) {
					ctx, hangUp := context.WithCancelCause(t.Context())
					r := c.begin(ctx, func(_ context.Context, lines [][]byte, _ *Outcome) error {
						time.Sleep(time.Second / 2) // longer than all that follows
						return nil
					})
					r.start()
					synctest.Wait()
					hangUp(errGone)
					first, second := c.asked("interrupt"), c.asked("interrupt")
					ends(r)
					c.grant(first, "{}")
					c.grant(second, "{}")
					require.Equal(t, errGone, r.end())
					for _, end := range r.ends {
						require.Nil(t, end)
					}
				})
			}
		})
	}
}

func TestAbort_EndsTheRunForTheFirstReason(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), nil)
		r.start()
		require.False(t, c.proc.Unusable())
		why := errors.New("too much memory")
		c.proc.Abort(why)
		c.proc.Abort(errGone)
		require.True(t, c.proc.Unusable())
		for range 2 {
			c.grant(c.asked("interrupt"), "{}")
		}
		r.result(interrupted)
		r.lifecycle("completed")
		require.Equal(t, why, r.end())
		require.False(t, c.proc.Rewind(t.Context()), "it isn't worth while")
		c.idle()
	})
}

func TestAbort_ThatComesTooLateEndsTheNextRun(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.answer()
		c.proc.Abort(errGone)
		r := c.begin(t.Context(), nil)
		r.start()
		for range 2 {
			c.grant(c.asked("interrupt"), "{}")
		}
		r.result(interrupted)
		require.Equal(t, errGone, r.end())
	})
}

func TestRecycle_LetsTheRunGoOn(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		require.True(t, c.proc.Satisfies(Settings{}))
		r := c.begin(t.Context(), nil)
		r.start()
		c.proc.Recycle()
		time.Sleep(time.Second)
		require.True(t, r.runs())
		c.idle()
		r.result(success)
		require.NoError(t, r.end())
		require.True(t, c.proc.Unusable())
		require.False(t, c.proc.Satisfies(Settings{}))
		require.True(t, c.proc.NeedsRestart(Settings{}))
	})
}

// In a time that doesn't stand still: who waits for the lock of stdin keeps a bubble's time from passing.
func TestRun_ACLIThatReadsNothingIsKilled(t *testing.T) {
	t.Parallel()
	for name, message := range map[string]string{"small": `"hello"`, "large": `"` + strings.Repeat("x", pipeRoom) + `"`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			soon := func(l *Limits) { l.Silence, l.InterruptGrace = 10*time.Millisecond, 10*time.Millisecond }
			c := newCLI(t, newGrants(t), soon)
			require.Equal(t, ErrSilence, c.beginUnread(t.Context(), message, func() {}, nil).end())
			require.Equal(t, []syscall.Signal{syscall.SIGKILL}, c.sent())
		})
	}
}
