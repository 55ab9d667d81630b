package pool_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

// begin sends a request whose turn won't end by itself, and returns when the API has been asked so many times since.
func (s *service) begin(user, text string, calls int) (response *http.Response, hangUp func()) {
	s.t.Helper()
	before := len(s.api.Calls())
	ctx, cancel := context.WithCancel(s.t.Context())
	response, err := s.start(ctx, user, text, nil)
	require.NoError(s.t, err)
	s.awaitCall(before + calls - 1)
	return response, func() {
		cancel()
		_ = response.Body.Close()
	}
}

// fail has a turn that doesn't go well: by itself, or when the API has been asked so many times, spoil has been called
// and its client has hung up.
func (s *service) fail(user, text string, calls int, spoil func()) {
	s.t.Helper()
	if calls == 0 {
		require.True(s.t, s.ask(user, text, nil).of("result")[0].Get("is_error").Bool())
		return
	}
	_, hangUp := s.begin(user, text, calls)
	if spoil != nil {
		spoil()
	}
	hangUp()
}

// reap ends all idle processes as if they had been idle for long.
func (s *service) reap() {
	require.Eventually(s.t, func() bool { // a turn that is being forgotten isn't idle yet
		s.pool.CleanUp(time.Now().Add(2 * time.Minute))
		reserved, _ := s.pool.Load()
		return reserved == 0
	}, time.Minute, 10*time.Millisecond)
}

// What a turn has put in the place of what was said before goes with it.
func TestPool_ASummaryThatAFailedTurnMadeIsForgotten(t *testing.T) {
	t.Parallel()
	const fill = `lilac [[1:tool=Bash {"command":"echo lilac"}]][[1:input_tokens=990000]]`
	for name, c := range map[string]struct {
		text  string
		calls int // that the API gets before the turn is given up; 0: it fails by itself
		kill  bool
	}{
		"fails":                    {fill + "[[2:status=500]]", 0, false},
		"hung up on":               {fill + "[[2:silence]]", 3, false},
		"hung up on as it is made": {fill + "[[compacting=1m]]", 2, false},
		"killed":                   {fill + "[[2:silence]]", 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			first := s.ask("ada", "one", nil)
			first.text(t)
			s.ask("ada", "two", nil).text(t)
			s.fail("ada", c.text, c.calls, func() {
				if c.kill {
					kill(t, first.pid)
				}
			})
			require.Contains(t, string(s.lastCall().Body), "lilac", "the control")

			next := s.ask("ada", "next", nil)
			require.Equal(t, "reply to: next", next.text(t))
			require.Equal(t, api.ContextCut, next.receipt().Get("context").Str)
			said := []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two", "user: next"}
			require.Equal(t, said, s.lastCall().Messages())
			require.NotContains(t, string(s.lastCall().Body), "lilac")
			s.reap()
			last := s.ask("ada", "last", nil)
			require.Equal(t, "reply to: last", last.text(t))
			require.Equal(t, api.ContextResumed, last.receipt().Get("context").Str)
			require.Equal(t, append(said, "assistant: reply to: next", "user: last"), s.lastCall().Messages())
		})
	}
}

// One that a good turn has left stays, whatever comes later.
func TestPool_ASummaryThatAGoodTurnMadeStays(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	s.ask("ada", "one", nil).text(t)
	s.ask("ada", "two [[input_tokens=990000]]", nil).text(t)
	s.fail("ada", "lilac [[status=500]]", 0, nil) // the summary was made for it
	three := s.ask("ada", "three", nil)
	require.Equal(t, "reply to: three", three.text(t))
	kept := s.lastCall().Messages()
	require.Contains(t, kept[0], "summary of: one / reply to: one")
	require.NotContains(t, string(s.lastCall().Body), "lilac")
	said := append(kept, "assistant: reply to: three", "user: four")
	s.fail("ada", "orchid [[status=500]]", 0, nil)
	s.reap()
	four := s.ask("ada", "four", nil)
	require.Equal(t, "reply to: four", four.text(t))
	require.Equal(t, said, s.lastCall().Messages())
	require.NotContains(t, string(s.lastCall().Body), "orchid")
}

// What counts as the turn's last line is one of the main conversation, also where that has no text.
func TestPool_ATurnWithoutAnAnswerIsAGoodOne(t *testing.T) {
	t.Parallel()
	agent := `[[1:tool=Agent {"description":"d","prompt":"look around","subagent_type":"general-purpose",` +
		`"run_in_background":false}]]`
	for name, text := range map[string]string{
		"empty":                  "violet [[empty]]",
		"empty after a subagent": "violet " + agent + "[[2:empty]][[3:empty]]",
		"a subagent":             "violet " + agent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			s.ask("ada", "one", nil).text(t)
			violet := s.ask("ada", text, nil)
			require.False(t, violet.of("result")[0].Get("is_error").Bool())
			s.ask("ada", "lilac [[status=500]]", nil)
			next := s.ask("ada", "next", nil)
			require.Equal(t, "reply to: next", next.text(t))
			live := s.lastCall().Messages()
			require.Contains(t, strings.Join(live, "\n"), "violet")
			require.NotContains(t, strings.Join(live, "\n"), "lilac")
			require.Equal(t, strings.Contains(text, "Agent"), strings.Contains(string(s.lastCall().Body),
				"reply to: look around"))

			s.ask("ada", "lilac [[status=500]]", nil)
			s.reap()
			last := s.ask("ada", "last", nil)
			require.Equal(t, "reply to: last", last.text(t))
			require.Equal(t, append(live, "assistant: reply to: next", "user: last"), s.lastCall().Messages())

			s.ask("ada", "once more "+text, nil)
			s.ask("ada", "lilac [[status=500]]", nil)
			s.reap()
			cut := s.ask("ada", "cut", nil)
			require.Equal(t, "reply to: cut", cut.text(t))
			require.Equal(t, api.ContextCut, cut.receipt().Get("context").Str)
			said := strings.Join(s.lastCall().Messages(), "\n")
			for _, part := range []string{"violet", "no visible output", "Subagent hand-back"} { // of both turns, whole
				require.Equal(t, 2*strings.Count(strings.Join(live, "\n"), part), strings.Count(said, part), "%s: %s", part, said)
			}
			require.NotContains(t, said, "lilac")
		})
	}
}
