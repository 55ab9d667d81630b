package pool_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a turn has started that is forgotten ends with it: nothing of it runs, calls the API or is told when the next
// begins.
func TestPool_WhatAForgottenTurnStartedEndsBeforeTheNext(t *testing.T) {
	t.Parallel()
	length := strconv.Itoa(200_000_000 + os.Getpid()) // that no other run of this test has
	nohup := `Bash {"command":"nohup setsid sh -c 'sleep ` + length + `' >/dev/null 2>&1 & echo started"}`
	sleep := `Bash {"command":"sleep ` + length + `"}`
	agent := `Agent {"description":"d",` +
		`"prompt":"lilac \u005b\u005bwords=600\u005d\u005d\u005b\u005bdelay=100ms\u005d\u005d",` +
		`"subagent_type":"general-purpose","run_in_background":false}`
	s := newService(t, allowing(t, "Bash"))
	s.ask("ada", "one", nil).text(t)
	said := s.lastCall().Messages()
	asked := "one"
	for name, c := range map[string]struct {
		tools string
		then  string
		calls int  // that the API gets before its client hangs up; 0: the turn fails by itself
		bash  bool // is awaited
	}{
		"a command left behind, then an error":   {nohup, "[[2:status=500]]", 0, true},
		"a command left behind, then a hang-up":  {nohup, "[[2:silence]]", 2, true},
		"a command that runs":                    {sleep, "", 1, true},
		"commands in parallel":                   {sleep + "\n" + nohup + "\n" + sleep, "", 1, true},
		"an agent":                               {agent, "", 2, false},
		"agents in parallel":                     {agent + "\n" + agent, "", 3, false},
		"an agent beside a command that is left": {nohup + "\n" + agent, "", 2, true},
	} {
		s.fail("ada", "lilac "+name+"[[1:tool="+c.tools+"]]"+c.then, c.calls, func() {
			if c.bash {
				require.Eventually(t, func() bool { return len(sleepers(t, length)) > 0 }, time.Minute, 10*time.Millisecond, name)
			}
		})
		before := len(s.api.Calls())
		next := s.ask("ada", "after "+name, nil)
		require.Empty(t, sleepers(t, length), name)
		require.Equal(t, "reply to: after "+name, next.text(t))
		require.NotContains(t, next.body, "lilac", name)
		require.NotContains(t, string(s.lastCall().Body), "lilac", name)
		said = append(said, "assistant: reply to: "+asked, "user: after "+name)
		asked = "after " + name
		require.Equal(t, said, s.lastCall().Messages(), name)
		require.Len(t, s.api.Calls(), before+1, name)
		require.Zero(t, s.api.Open(), name)
	}
}

// Also where what the turn leaves takes a while to end, a client that goes on with another question finds its
// conversation.
func TestPool_AfterAFailedTurnItsConversationIsFoundAtOnce(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	one := s.ask("ada", "one", nil)
	ask := func(text string) reply {
		return s.ask("ada", "", fields{"messages": []fields{{"role": "user", "content": "one"},
			{"role": "assistant", "content": "reply to: one"}, {"role": "user", "content": text}}})
	}
	for range 3 {
		failed := ask(`lilac [[tool=Bash {"command":"echo hi"}]][[2:status=500]][[4:status=500]][[6:status=500]]`)
		require.True(t, failed.of("result")[0].Get("is_error").Bool())
		require.Equal(t, one.session(), failed.session())
	}
	require.Equal(t, one.session(), ask("two").session())
}
