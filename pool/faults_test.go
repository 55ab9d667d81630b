package pool_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

// The CLI tries a cut stream again, up to ten times with pauses of 0.5 s, 1 s, 2 s and so on, and says so in the
// stream.
func TestPool_ACutAnswerIsTriedAgainByTheCLI(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	r := s.ask("ada", "one [[words=3]][[1:cut]]", nil)
	require.Equal(t, "w0 w1 w2 ", r.text(t))
	require.Len(t, s.api.Calls(), 2)
	retries := 0
	for _, e := range r.of("system") {
		if e.Get("subtype").Str == "api_retry" {
			retries++
		}
	}
	require.Equal(t, 1, retries, "the client is told")
}

func TestPool_AnAPIThatCutsEveryAnswerEndsTheTurnAtItsDeadline(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *pool.Options) { o.TurnTimeout = 5 * time.Second })
	first := s.ask("ada", "one", nil)
	first.text(t)
	cut := s.ask("ada", "cut [[words=9]][[cut]]", nil)
	require.Len(t, cut.of("error"), 1, cut.body)
	require.Contains(t, cut.of("error")[0].Get("error.message").Str, "the turn took longer than 5s")
	require.Empty(t, cut.of("result"))
	require.True(t, cut.done)

	next := s.ask("ada", "next", nil)
	require.Equal(t, "reply to: next", next.text(t))
	require.Equal(t, first.pid, next.pid)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: next"}, s.lastCall().Messages())
}

func TestPool_AnAnswerThatIsGarbageIsAFailedResult(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	first.text(t)
	garbage := s.ask("ada", "[[garbage]]", nil)
	require.Contains(t, garbage.text(t), "API Error")
	require.True(t, garbage.of("result")[0].Get("is_error").Bool())
	require.NotContains(t, garbage.body, "127.0.0.1")

	next := s.ask("ada", "next", nil)
	require.Equal(t, "reply to: next", next.text(t))
	require.Equal(t, first.pid, next.pid)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: next"}, s.lastCall().Messages())
}

func TestPool_ATurnLongerThanTheDrainIsCutShortWithAnError(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	first.text(t)
	before := len(s.api.Calls())
	response, err := s.start(t.Context(), "ada", "long [[words=500]][[delay=100ms]]", nil)
	require.NoError(t, err)
	s.awaitCall(before)
	cut := make(chan reply)
	go func() { cut <- read(response) }()

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	s.pool.Drain(ctx)
	require.Error(t, ctx.Err(), "the drain waited for the turn")
	require.Empty(t, s.owner.releasedUsers(), "its user isn't given up while it runs")
	s.pool.Close()
	r := <-cut
	require.Len(t, r.of("error"), 1, r.body)
	require.Contains(t, r.of("error")[0].Get("error.message").Str, "shutting down")
	require.Empty(t, r.of("result"))
	require.True(t, r.done)
	require.False(t, exists(first.pid))
	require.Len(t, s.owner.releasedUsers(), 1)
}

func TestPool_TheSessionOfAnotherIsOutOfReach(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	session := fields{"session_id": uuid.NewString()}
	first := s.ask("ada", "my secret is heliotrope", session)
	first.text(t)
	eves := s.ask("eve", "what is the secret?", session)
	require.Equal(t, pool.ProcessCold, eves.process)
	require.NotEqual(t, first.pid, eves.pid)
	require.NotContains(t, string(s.lastCall().Body), "heliotrope")

	kill(t, first.pid) // now it would have to be resumed
	kill(t, eves.pid)
	for _, more := range []fields{session, {"session_id": session["session_id"], "system": "Tell all."}} {
		s.ask("eve", "tell me", more).text(t)
		require.NotContains(t, string(s.lastCall().Body), "heliotrope")
	}
	again := s.ask("ada", "again", session)
	require.Equal(t, "reply to: again", again.text(t))
	require.Equal(t, []string{"user: my secret is heliotrope", "assistant: reply to: my secret is heliotrope",
		"user: again"}, s.lastCall().Messages())
}

// The CLI asks the API about a model that it doesn't know.
func TestPool_AModelThatTheAPICantBeAskedAboutNowIsNotCalledWrong(t *testing.T) {
	t.Parallel()
	s := newService(t, func(*pool.Options) {})
	s.ask("ada", "one", nil).text(t)
	newer := fields{"model": "claude-next-6-20270101"}
	for _, c := range [][2]int{{404, 400}, {403, 400}, {429, 529}, {500, 529}} {
		s.api.Admit(func(string) int { return c[0] })
		r := s.ask("ada", "two", newer)
		require.Equal(t, c[1], r.status, r.body)
	}
	s.api.Admit(func(string) int { return 0 })
	s.ask("ada", "three", newer).text(t)
	require.Equal(t, newer["model"], s.lastCall().Model)
}
