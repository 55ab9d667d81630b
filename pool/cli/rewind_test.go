package cli

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
)

const stillRuns = `{"rewound":false,"reason":"turn_running"}`

// fail has a run that ends badly and isn't put away yet.
func (c *fakeCLI) fail() *run {
	c.t.Helper()
	r := c.begin(c.t.Context(), nil)
	r.start()
	r.result(interrupted)
	require.NoError(c.t, r.end())
	require.False(c.t, r.outcome.Good())
	return r
}

// later calls f and returns what it will have returned.
func later[T any](f func() T) <-chan T {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return result
}

func TestRewind_ReportsWhetherItIsCertain(t *testing.T) {
	for name, want := range map[string]struct {
		does func(c *fakeCLI, id string)
		sure bool
	}{
		"rewound":      {func(c *fakeCLI, id string) { c.grant(id, `{"rewound":true}`) }, true},
		"not there":    {func(c *fakeCLI, id string) { c.grant(id, `{"rewound":false,"reason":"target_not_found"}`) }, true},
		"other reason": {func(c *fakeCLI, id string) { c.grant(id, `{"rewound":false,"reason":"tired"}`) }, false},
		"no reason":    {func(c *fakeCLI, id string) { c.grant(id, `null`) }, false},
		"error":        {func(c *fakeCLI, id string) { c.refuse(id, "unknown request") }, false},
		"death":        {func(c *fakeCLI, _ string) { c.die() }, false},
		"runs for a while": {func(c *fakeCLI, id string) {
			for range 3 {
				c.grant(id, stillRuns)
				id = c.asked("rewind_conversation")
			}
			c.grant(id, `{"rewound":true}`)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				r := c.fail()
				sure := later(func() bool { return c.proc.Rewind(t.Context()) })
				time.Sleep(time.Second / 2)
				c.idle() // until the turn has been put away
				r.lifecycle("completed")
				line := c.next()
				require.Equal(t, "rewind_conversation", line.Get("request.subtype").Str)
				require.Equal(t, r.uuid, line.Get("request.target_message_uuid").Str)
				want.does(c, line.Get("request_id").Str)
				require.Equal(t, want.sure, <-sure)
				require.True(t, c.proc.Rewind(t.Context()), "nothing more is to be done")
				c.idle()
			})
		})
	}
}

func TestRewind_IsOfNoUseWhereSomethingLastsThatTheTurnDid(t *testing.T) {
	for name, line := range map[string]string{
		"a tool":    `{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Bash"}]}}`,
		"a summary": `{"type":"system","subtype":"compact_boundary"}`,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				r := c.begin(t.Context(), nil)
				r.start()
				c.say(line)
				r.result(interrupted)
				r.lifecycle("completed")
				require.NoError(t, r.end())
				require.False(t, c.proc.Rewind(t.Context()))
				c.idle()
				c.proc.Quit()
				require.Equal(t, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}, c.sent(), "it has ignored the first")
			})
		})
	}
}

func TestRewind_TakesNoLongerThanItMay(t *testing.T) {
	for name, want := range map[string]struct {
		does  func(c *fakeCLI, r *run, giveUp func())
		after time.Duration
	}{
		"not put away": {func(*fakeCLI, *run, func()) {}, time.Second},
		"no answer":    {func(_ *fakeCLI, r *run, _ func()) { r.lifecycle("completed") }, time.Second},
		"death":        {func(c *fakeCLI, _ *run, _ func()) { c.die() }, 0},
		"given up":     {func(_ *fakeCLI, _ *run, giveUp func()) { giveUp() }, 0},
		"runs on and on": {func(c *fakeCLI, r *run, _ func()) {
			r.lifecycle("completed")
			go func() {
				for line := range c.told {
					c.grant(line.Get("request_id").Str, stillRuns)
				}
			}()
		}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := c.fail()
				began := time.Now()
				sure := later(func() bool { return c.proc.Rewind(ctx) })
				want.does(c, r, cancel)
				require.False(t, <-sure)
				require.Equal(t, want.after, time.Since(began))
			})
		})
	}
}

func TestRewind_HasNothingToDoAfterAGoodRun(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		require.True(t, c.proc.Rewind(t.Context()), "nor before the first")
		c.answer()
		require.True(t, c.proc.Rewind(t.Context()))
		c.idle()
		c.fail().lifecycle("completed")
		c.answer() // whoever goes on without rewinding has nothing to rewind any more
		require.True(t, c.proc.Rewind(t.Context()))
		c.idle()
	})
}

// warm has a warm-up begin and the CLI do what it does to it.
func (c *fakeCLI) warm(does func(*run)) error {
	c.t.Helper()
	err := later(func() error { return c.proc.WarmUp(c.t.Context(), []byte(`"warm up"`)) })
	message := c.next()
	require.Equal(c.t, "warm up", message.Get("message.content").Str)
	does(&run{c: c, uuid: message.Get("uuid").Str})
	return <-err
}

func TestWarmUp_IsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		require.NoError(t, c.warm(func(r *run) {
			r.start()
			for range 3 {
				c.say(long(queueBytes)) // nobody reads them
			}
			r.result(success)
			c.idle()
			r.lifecycle("completed")
			c.grant(c.asked("rewind_conversation"), `{"rewound":true}`)
		}))
		require.True(t, c.proc.Rewind(t.Context()))
		c.idle()
		c.answer()
	})
}

func TestWarmUp_FailsUnlessItWasAnsweredAndForgotten(t *testing.T) {
	for name, does := range map[string]func(*run){
		"failed": func(r *run) { r.start(); r.result(interrupted); r.lifecycle("completed") },
		"died":   func(r *run) { r.start(); r.c.die() },
		"not forgotten": func(r *run) {
			r.start()
			r.result(success)
			r.lifecycle("completed")
			r.c.refuse(r.c.asked("rewind_conversation"), "no")
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				require.Error(t, c.warm(does))
				require.Nil(t, c.proc.turn)
			})
		})
	}
	bubble(t, func(t *testing.T, c *fakeCLI) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errGone)
		defer cancel()
		require.Equal(t, errGone, c.proc.WarmUp(ctx, []byte(`"warm up"`)))
		c.die()
		<-c.proc.Exited()
		require.ErrorIs(t, c.proc.WarmUp(t.Context(), []byte(`"warm up"`)), ErrDied)
	})
}

func TestStartOver_TellsTheSessionThatTheCommandHasBegun(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		var session string
		err := later(func() (err error) { session, err = c.proc.StartOver(t.Context()); return err })
		message := c.next()
		require.Equal(t, "/clear", message.Get("message.content").Str)
		require.False(t, message.Get("text_not_typed").Exists(), "or it would be no command")
		r := &run{c: c, uuid: message.Get("uuid").Str}
		r.start()
		r.result(success + `,"session_id":"another"`)
		r.lifecycle("completed")
		c.grant(c.asked("rewind_conversation"), `{"rewound":true}`)
		require.NoError(t, <-err)
		require.Equal(t, "another", session)
	})
}

func TestForget_AsksUntilNoTurnRuns(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		forget := func() <-chan bool { return later(func() bool { return c.proc.Forget(t.Context(), "a-message") }) }
		forgotten := forget()
		c.grant(c.asked("rewind_conversation"), `{"rewound":false,"reason":"turn_running"}`)
		c.grant(c.asked("rewind_conversation"), `{"rewound":true}`)
		require.True(t, <-forgotten)
		forgotten = forget()
		c.grant(c.asked("rewind_conversation"), `{"rewound":false,"reason":"stale_target"}`)
		require.False(t, <-forgotten)
	})
}

func TestInnerID_IsInAllThatTheProcessWrites(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.proc.SetInnerID(claude.InnerID{ID: "inner", Session: "outer"})
		r := c.begin(t.Context(), nil)
		r.start()
		r.result(success + `,"session_id":"inner","note":"inner is outer"`)
		require.NoError(t, r.end())
		require.Equal(t, []string{initLine, r.resultLine(success + `,"session_id":"outer","note":"outer is outer"`)}, r.lines)
	})
}

func TestAside_IsAQuestionBesideTheConversation(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		aside := func() <-chan error { return later(func() error { return c.proc.AskAside(t.Context(), "how are you") }) }
		err := aside()
		line := c.next()
		require.Equal(t, "side_question", line.Get("request.subtype").Str)
		require.Equal(t, "how are you", line.Get("request.question").Str)
		c.grant(line.Get("request_id").Str, `{"response":"fine"}`)
		require.NoError(t, <-err)
		err = aside()
		c.refuse(c.asked("side_question"), "not now")
		require.ErrorContains(t, <-err, "not now")
		require.True(t, c.proc.Rewind(t.Context()))
		require.NoError(t, c.proc.Bind(broker.Credential{APIKey: "key"}))
	})
}
