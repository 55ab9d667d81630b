package pool_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"claudepool/infra/latency"
	"claudepool/infra/snapshot"
	"claudepool/pool"
	"claudepool/pool/api"
)

func TestScripted_IsPooledLikeTheRealOne(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.IdleTimeout = 2 * time.Second })
	first := s.ask("ada", "one", nil)
	require.Equal(t, "reply to: one", first.text(t))
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t))
	require.Eventually(t, func() bool { reserved, _ := s.pool.Load(); return reserved == 0 }, 30*time.Second,
		10*time.Millisecond)
	third := s.ask("ada", "three", nil)
	require.Equal(t, "reply to: three", third.text(t))
	require.Equal(t, pool.ProcessResumed, third.process)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two",
		"user: three"}, s.lastCall().Messages())
}

// Each of these turns goes wrong in a way the real CLI can't be made to show. The client is told, the next request is
// answered with its own answer, and its conversation holds nothing of the turn that failed.
func TestPool_SurvivesWhateverItsProcessDoes(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]struct {
		says    string // what the client is told
		samePID bool
	}{
		"exit":  {"the process of this conversation ended in the middle of the turn", false},
		"hang":  {"the turn took longer than 2s", false},
		"never": {"the turn took longer than 2s", false},
		"flood": {"the turn took longer than 2s", true},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			s := newScriptedService(t, func(o *pool.Options) { o.TurnTimeout = 2 * time.Second })
			first := s.ask("ada", "one", nil)
			require.Equal(t, "reply to: one", first.text(t))
			bad := s.ask("ada", "two [["+fault+"]]", nil)
			require.Equal(t, http.StatusOK, bad.status)
			require.True(t, bad.done, "the stream ends explicitly")
			require.Len(t, bad.of("error"), 1)
			require.Equal(t, want.says, bad.of("error")[0].Get("error.message").Str)
			next := s.ask("ada", "three", nil)
			require.Equal(t, "reply to: three", next.text(t))
			require.Equal(t, want.samePID, first.pid == next.pid)
			require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: three"}, s.lastCall().Messages())
		})
	}
}

func TestPool_AProcessThatEndsBetweenTurnsIsReplacedAndItsConversationResumed(t *testing.T) {
	s := newScriptedService(t, nil)
	first := s.ask("ada", "one [[leave]]", nil)
	first.text(t)
	require.Eventually(t, func() bool { reserved, _ := s.pool.Load(); return reserved == 0 }, 30*time.Second,
		5*time.Millisecond)
	next := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", next.text(t))
	require.Equal(t, pool.ProcessResumed, next.process)
	require.Len(t, s.lastCall().Messages(), 3)
}

// A process that dies over a message it has not taken up is replaced. The headers have named it by then; the receipt
// names the one that answered.
func TestPool_AReceiptNamesTheProcessThatAnswered(t *testing.T) {
	s := newScriptedService(t, nil)
	first := s.ask("ada", "one", nil)
	signalProcess(t, first.pid, syscall.SIGSTOP)
	awaitState(t, first.pid, "T")
	response, err := s.start(t.Context(), "ada", "two", nil)
	require.NoError(t, err)
	require.Equal(t, first.pid, response.Header.Get(api.HeaderPID))
	kill(t, first.pid)
	next := read(response)
	require.Equal(t, "reply to: two", next.text(t))
	require.NotEqual(t, first.pid, next.pid)
	require.Equal(t, pool.ProcessResumed, next.process)
}

// What the snapshot counts is what the receipts say, once for each turn.
func TestPool_ItsSnapshotTellsHowTurnsWereServedAndHowLongTheirFirstTokensTook(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.IdleTimeout = time.Hour })
	var want snapshot.Served
	asked := time.Now()
	first := s.ask("ada", "one [[events=3]]", nil)
	require.Equal(t, pool.ProcessCold, first.process)
	s.ask("ada", "two [[exit]]", nil) // which has begun to answer when it dies
	want.Cold, want.Reused = 1, 1
	require.Equal(t, pool.ProcessResumed, s.ask("ada", "three [[events=3]]", nil).process)
	want.Resumed = 1
	took := time.Since(asked)
	require.Eventually(t, func() bool { return s.pool.Snapshot().Busy == 0 }, time.Minute, time.Millisecond)
	now := s.pool.Snapshot()
	require.Equal(t, want, now.Served)
	require.Equal(t, 1, now.Processes)
	require.Zero(t, now.Pending)
	var sum latency.Sum
	for _, minute := range now.FirstTokens {
		sum.Add(minute)
	}
	require.EqualValues(t, 3, sum.Count())
	require.LessOrEqual(t, sum.Quantile(1), took+took/5+2*time.Millisecond)

	ctx, hangUp := context.WithCancel(t.Context())
	response, err := s.start(ctx, "ada", "four [[events=2]][[hang]]", nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.pool.Snapshot().Busy == 1 }, time.Minute, time.Millisecond)
	hangUp()
	_ = response.Body.Close()
}

// An interrupt that its own turn has outrun would end the next one. Many users keep the machine busy enough for it.
func TestPool_AHangUpAtAnyMomentLeavesTheNextTurnAlone(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 16 })
	var users sync.WaitGroup
	for i := range 16 {
		user := fmt.Sprint("user-", i)
		users.Go(func() {
			for range 15 {
				ctx, hangUp := context.WithTimeout(t.Context(), rand.N(20*time.Millisecond))
				if response, err := s.start(ctx, user, "abandoned [[events=2]][[delay=5ms]]", nil); err == nil {
					read(response)
				}
				hangUp()
				next := s.ask(user, "next [[events=2]]", nil)
				assert.Equal(t, "w0 w1 ", next.text(t), next.body)
			}
		})
	}
	users.Wait()
}

// A client that reads nothing makes its process wait, and nobody else.
func TestPool_AFloodIsHeldBackByItsReader(t *testing.T) {
	s := newScriptedService(t, nil)
	ctx, hangUp := context.WithCancel(t.Context())
	response, err := s.start(ctx, "ada", "[[flood]]", nil)
	require.NoError(t, err)
	for i := range 20 {
		text := fmt.Sprint("question ", i)
		require.Equal(t, "reply to: "+text, s.ask("bob", text, nil).text(t))
	}
	hangUp()
	_ = response.Body.Close()
	require.Equal(t, "reply to: next", s.ask("ada", "next", nil).text(t))
}

func TestPool_AHundredRequestsOfAConversationAreAnsweredInLine(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.QueueLimit = 100 })
	replies := make([]reply, 100)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() { replies[i] = s.ask("ada", fmt.Sprint("question ", i), nil) })
	}
	wg.Wait()
	for i, r := range replies {
		require.Equal(t, fmt.Sprint("reply to: question ", i), r.text(t))
		require.Equal(t, replies[0].pid, r.pid)
	}
}
