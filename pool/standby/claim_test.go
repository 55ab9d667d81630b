package standby

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
)

// run has a claimed process answer, without the API.
func (s *stage) run(p *cli.Process) {
	s.t.Helper()
	ignore := func(context.Context, [][]byte, *cli.Outcome) error { return nil }
	outcome, err := p.Run(s.t.Context(), []byte(`"[[events=1]]"`), func() {}, ignore)
	require.NoError(s.t, err)
	require.True(s.t, outcome.Good())
}

func TestClaim_WhatIsClaimedIsItsUsersAndRemembersNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.await(1)
	p := s.requireClaim("")
	require.ErrorIs(t, p.Bind(eve), broker.ErrBound)
	require.NoError(t, p.Folder.WithTranscript(p.Session, func(transcript claude.Transcript) error {
		require.False(t, transcript.Exists())
		s.run(p.Process)
		s.eventually(transcript.Exists)
		texts, err := transcript.Read(1 << 20)
		require.Contains(t, string(texts), "events=1")
		require.NotContains(t, strings.ToLower(string(texts)), "warm-up")
		return err
	}))
}

func TestClaim_NobodyGetsAnothersProcess(t *testing.T) {
	t.Parallel()
	const ready, users = 4, 12
	s := newStage(t, func(s *stage, o *Options) {
		o.Min = ready
		s.room.Store(ready)
	})
	s.await(ready)
	var mu sync.Mutex
	owners, misses := map[int]int{}, int64(0)
	var all sync.WaitGroup
	for range users {
		all.Go(func() {
			p, err := s.claim("")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				assert.ErrorIs(t, err, ErrNone)
				misses++
				return
			}
			owners[p.PID()]++
		})
	}
	all.Wait()
	require.GreaterOrEqual(t, len(owners), ready)
	for pid, n := range owners {
		require.Equal(t, 1, n, pid)
	}
	require.EqualValues(t, users, int64(len(owners))+misses)
	require.Equal(t, misses, s.Stats().Misses)
}

func TestClaim_TheYoungestIsTakenFirst(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(_ *stage, o *Options) { o.Min = 3 })
	s.await(3)
	pids := s.readyPIDs()
	require.Equal(t, pids[2], s.requireClaim("").PID())
}

// A system prompt can't be given to a process that has had a turn, so that some are warmed up without one where
// clients send system prompts.
func TestClaim_ABlankProcessTakesASystemPrompt(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(_ *stage, o *Options) { o.Min = 2 })
	s.await(2)
	system := s.awaitBlank()
	p := s.requireClaim(system)
	require.False(t, p.NeedsRestart(cli.Settings{Permission: "default", System: system}), "it has it")
	s.run(p.Process)
}

func TestClaim_ABlankProcessIsKeptForASystemPrompt(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(_ *stage, o *Options) { o.Min = 2 })
	s.await(2)
	s.awaitBlank()
	require.True(t, s.ready[1].kind.blank, "it is the younger one")
	require.False(t, s.requireClaim("").kind.blank)
}

// What goes wrong in the midst of a claim costs the process that was tried, and nobody gets it.
func TestClaim_WhatGoesWrongCostsTheProcess(t *testing.T) {
	const patient = 500 * time.Millisecond
	die := func(_ *testing.T, p *cli.Process) { p.Kill() }
	hang := func(t *testing.T, p *cli.Process) {
		assert.NoError(t, p.Signal(syscall.SIGSTOP))
		assert.Eventually(t, func() bool { return state(p.PID()) == "T" }, time.Minute, time.Millisecond)
		time.AfterFunc(patient, func() { _ = p.Signal(syscall.SIGCONT) }) // or it takes long to end it
	}
	bind := func(t *testing.T, p *cli.Process) { assert.NoError(t, p.Bind(eve)) }
	for name, c := range map[string]struct {
		fault func(*testing.T, *cli.Process)
		want  error // nil: another process is handed out
	}{
		"it died":         {fault: die},
		"a call is open":  {fault: beginCall},
		"it is another's": {fault: bind, want: broker.ErrBound},
		"it hangs":        {fault: hang, want: context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tried atomic.Pointer[cli.Process]
			s := newStage(t, func(_ *stage, o *Options) {
				o.Min = 2
				o.OnClaim = func(p *cli.Process) {
					if tried.CompareAndSwap(nil, p) {
						c.fault(t, p)
					}
				}
			})
			s.await(2)
			system := ""
			if c.want == context.DeadlineExceeded { // as only the prompt's answer is waited for
				system = s.awaitBlank()
			}
			ctx, cancel := context.WithTimeout(t.Context(), patient/2)
			defer cancel()
			if c.want == nil {
				ctx = t.Context()
			}
			p, err := s.Claim(ctx, ada, system)
			require.ErrorIs(t, err, c.want)
			require.Empty(t, state(tried.Load().PID()), "nothing is left of it")
			if c.want == nil {
				require.NotEqual(t, tried.Load().PID(), p.PID())
				require.NoError(t, p.Stop())
				require.NoError(t, p.Folder.Remove())
			}
		})
	}
}

// awaitBlank waits until one of two processes that are ready can be given a system prompt, and returns one.
func (s *stage) awaitBlank() (system string) {
	s.t.Helper()
	system = "You are a zebra."
	for range 2 {
		_, err := s.claim(system)
		require.ErrorIs(s.t, err, ErrNone, "nobody could know")
	}
	s.eventually(func() bool { return s.blanks() == 1 && s.Stats().Ready == 2 })
	return system
}

// beginCall begins an API call of the process, which ends with it.
func beginCall(t *testing.T, p *cli.Process) {
	body, rest := io.Pipe()
	t.Cleanup(func() { _ = rest.Close() })
	r, err := http.NewRequest(http.MethodPost, p.BrokerURL()+"/v1/messages", body)
	assert.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+p.Secret())
	go func() {
		if response, err := http.DefaultClient.Do(r); err == nil {
			_ = response.Body.Close()
		}
	}()
	assert.Eventually(t, func() bool { return p.Calls() == 1 }, patience, time.Millisecond)
}
