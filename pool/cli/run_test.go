package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/broker"
)

const (
	event     = `{"type":"stream_event","event":{"type":"ping"}}`
	stray     = `{"type":"assistant","uuid":"stray"}`
	strayEnd  = `{"type":"result","user_message_uuid":"another",` + success + `}`
	assistant = `{"type":"assistant","uuid":"a1"}`
	apiError  = `{"type":"assistant","uuid":"e1","error":"overloaded"}`
)

var noise = []string{"not JSON", "\xff\xfe\x00", "[1,2]", `{"half": `, ""}

func TestRun_HandsOverTheLinesOfItsTurnAndNoOthers(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.say(stray, strayEnd) // there is no turn at all
		r := c.begin(t.Context(), nil)
		c.say(stray, strayEnd, initLine, r.resultLine(success))
		(&run{c: c, uuid: "another"}).start()
		r.lifecycle("queued")
		c.say(stray, r.resultLine(success))
		r.lifecycle("started")
		c.say(noise...)
		c.say(initLine, event, `{"type":"keep_alive"}`, `{"type":"control_response","response":{"request_id":"cp-9"}}`)
		c.say(strayEnd, assistant, `{"type":"tool_progress"}`, r.resultLine(success), r.resultLine(interrupted), stray)
		require.NoError(t, r.end())
		require.Equal(t, []string{initLine, event, assistant, `{"type":"tool_progress"}`, r.resultLine(success)}, r.lines)
		require.Equal(t, "a1", r.outcome.Mark)
		r.lifecycle("completed")
		c.say(stray, strayEnd)
		next := c.begin(t.Context(), nil)
		c.say(r.resultLine(success))
		next.start()
		c.say(r.resultLine(success))
		next.result(success)
		require.NoError(t, next.end())
		require.Equal(t, []string{initLine, next.resultLine(success)}, next.lines)
		require.Equal(t, next.uuid, next.outcome.Mark)
	})
}

func TestRun_OnlyTheLastBatchCarriesTheOutcome(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), nil)
		r.start()
		for range 10 {
			time.Sleep(10 * time.Millisecond)
			c.say(event)
		}
		for range 1000 {
			c.say(event) // all at one time
		}
		r.result(success)
		require.NoError(t, r.end())
		require.Len(t, r.lines, 1012)
		require.GreaterOrEqual(t, len(r.ends), 11, "who writes slowly doesn't wait")
		require.Less(t, len(r.ends), 40, "lines in quick succession go together")
		last := len(r.ends) - 1
		for _, end := range r.ends[:last] {
			require.Nil(t, end)
		}
		require.Equal(t, r.outcome, *r.ends[last])
		require.Equal(t, r.resultLine(success), string(r.outcome.Result.Raw))
	})
}

func TestRun_TellsHowItWent(t *testing.T) {
	for name, want := range map[string]struct {
		says, result string
		uuid         string
		good         bool
	}{
		"success":                {assistant, success, "a1", true},
		"success without a word": {event, success, "", true},
		"an error of the API":    {apiError, `"subtype":"success","is_error":true`, "", false},
		"an error after a word":  {assistant, `"subtype":"success","is_error":true`, "a1", false},
		"another end":            {assistant, `"subtype":"error_max_turns","is_error":false`, "a1", false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				r := c.begin(t.Context(), nil)
				r.start()
				c.say(want.says)
				r.result(want.result)
				require.NoError(t, r.end())
				require.True(t, r.outcome.Started)
				require.Equal(t, cmp.Or(want.uuid, r.uuid), r.outcome.Mark)
				require.Equal(t, want.good, r.outcome.Good())
				require.Equal(t, want.good, c.proc.turn == nil, "one that went well isn't to be rewound")
			})
		})
	}
}

func TestRun_TheBrokersAddressIsTakenOutOfErrorsOnly(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		said := `{"type":"assistant","uuid":"a","text":"` + c.proc.grant.URL() + `"}`
		failed := `{"type":"assistant","error":"` + c.proc.grant.URL() + `"}`
		r := c.begin(t.Context(), nil)
		r.start()
		c.say(said, failed)
		r.result(`"subtype":"success","is_error":true,"result":"no ` + c.proc.grant.URL() + `"`)
		require.NoError(t, r.end())
		require.Equal(t, said, r.lines[1])
		require.Equal(t, "the API", gjson.Get(r.lines[2], "error").Str)
		require.Equal(t, "no the API", gjson.Get(r.lines[3], "result").Str)
	})
}

// Nothing but the beginning of the message is read until the CLI has said much, and asked something itself.
func TestRun_AMessageLargerThanThePipeDoesntStopTheReading(t *testing.T) {
	grants := newGrants(t)
	synctest.Test(t, func(t *testing.T) {
		c, sent := newCLI(t, grants), make(chan struct{})
		text := strings.Repeat("long ", 100_000)
		r := c.beginUnread(t.Context(), `"`+text+`"`, func() { close(sent) }, nil)
		<-sent
		begin := make([]byte, 100)
		_, err := io.ReadFull(c.stdin, begin)
		require.NoError(t, err)
		r.uuid = gjson.GetBytes(begin, "uuid").Str
		r.start()
		for i := range 3 {
			c.say(fmt.Sprintf(`{"type":"control_request","request_id":"ask-%d","request":{"subtype":"elicitation"}}`, i), event)
		}
		c.listen()
		rest := c.next()
		require.Empty(t, rest.Get("type").Str, "the rest of the message")
		asked := map[string]bool{}
		for range 3 {
			refusal := c.next().Get("response")
			require.Equal(t, "error", refusal.Get("subtype").Str)
			asked[refusal.Get("request_id").Str] = true
		}
		require.Equal(t, map[string]bool{"ask-0": true, "ask-1": true, "ask-2": true}, asked)
		r.result(success)
		require.NoError(t, r.end())
		require.Equal(t, []string{initLine, event, event, event, r.resultLine(success)}, r.lines)
	})
}

func TestRun_SentIsCalledWhenASmallMessageIsThere(t *testing.T) {
	grants := newGrants(t)
	synctest.Test(t, func(t *testing.T) {
		c, sent := newCLI(t, grants), make(chan struct{})
		r := c.beginUnread(t.Context(), `"hello"`, func() { close(sent) }, nil)
		synctest.Wait()
		select {
		case <-sent:
			require.Fail(t, "nothing has been read")
		default:
		}
		c.listen()
		<-sent
		r.uuid = c.next().Get("uuid").Str
		r.start()
		r.result(success)
		require.NoError(t, r.end())
	})
}

// The message's own lines come before the message was read: nothing but a process that means harm does so.
func TestRun_AResultAfterTheMessageFailedIsNone(t *testing.T) {
	grants := newGrants(t)
	synctest.Test(t, func(t *testing.T) {
		c, goOn := newCLI(t, grants), make(chan struct{})
		slow := func(context.Context, [][]byte, *Outcome) error { <-goOn; return nil }
		r := c.beginUnread(t.Context(), `"`+strings.Repeat("x", pipeRoom)+`"`, func() {}, slow)
		begin := make([]byte, 100)
		_, err := io.ReadFull(c.stdin, begin)
		require.NoError(t, err)
		r.uuid = gjson.GetBytes(begin, "uuid").Str
		r.start()
		synctest.Wait()
		c.say(long(queueBytes))
		r.result(success)
		synctest.Wait()
		require.True(t, c.proc.Stalled())
		require.NoError(t, c.stdin.Close())
		synctest.Wait()
		close(goOn)
		require.ErrorIs(t, r.end(), ErrDied)
		require.Nil(t, r.outcome.Result)
		require.True(t, c.proc.Alive())
		began := time.Now()
		require.False(t, c.proc.Rewind(t.Context()))
		require.Zero(t, time.Since(began), "it can't be told anything")
	})
}

func TestRun_ADeathIsToldWithWhetherTheMessageWasTakenUp(t *testing.T) {
	for name, want := range map[string]struct {
		does    func(*run)
		started bool
		lines   int
	}{
		"at once":      {func(*run) {}, false, 0},
		"queued":       {func(r *run) { r.lifecycle("queued") }, false, 0},
		"started":      {func(r *run) { r.lifecycle("started") }, true, 0},
		"after a word": {func(r *run) { r.start(); r.c.say(event) }, true, 2},
		"half a word":  {func(r *run) { r.start(); _, _ = io.WriteString(r.c.stdout, event[:20]) }, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				r := c.begin(t.Context(), nil)
				want.does(r)
				c.die()
				require.ErrorIs(t, r.end(), ErrDied)
				require.Equal(t, want.started, r.outcome.Started)
				require.Nil(t, r.outcome.Result)
				require.Len(t, r.lines, want.lines)
				for _, end := range r.ends {
					require.Nil(t, end)
				}
				require.False(t, c.proc.Rewind(t.Context()))
				again, err := c.proc.Run(t.Context(), []byte(`"hello"`), func() { t.Error("nothing is sent") }, nil)
				require.ErrorIs(t, err, ErrDied)
				require.Zero(t, again)
				require.ErrorIs(t, c.proc.Bind(broker.Credential{APIKey: "key"}), ErrDied)
			})
		})
	}
}

func TestRun_TheErrorOfWhoGetsTheLinesEndsIt(t *testing.T) {
	fail := func(context.Context, [][]byte, *Outcome) error { return errGone }
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), fail)
		r.start()
		for range 2 {
			c.grant(c.asked("interrupt"), "{}")
		}
		c.say(event)
		r.result(interrupted)
		require.Equal(t, errGone, r.end())
		require.NotContains(t, r.lines, event, "it was told the end of it")
		require.Empty(t, c.sent())
		r.lifecycle("completed")
		c.proc.detach()
		c.answer()
	})
}

func TestRun_AnErrorOverTheLastLinesComesTooLate(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), func(_ context.Context, _ [][]byte, end *Outcome) error {
			if end == nil {
				return nil
			}
			return errors.New("gone")
		})
		r.start()
		r.result(success)
		require.NoError(t, r.end())
		require.True(t, r.outcome.Good())
		c.idle()
	})
}
