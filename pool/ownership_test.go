package pool_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
	"claudepool/pool"
)

// move is what the lease does about a user who is another instance's by now.
func (s *service) move(user string) {
	s.owner.move(userID(user))
	s.pool.Evict(userID(user))
}

// gone waits until no process of anybody is left.
func (s *service) gone() {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return len(s.processes()) == 0 }, time.Minute, time.Millisecond)
}

// hello asks in the background.
func (s *service) hello(ctx context.Context, user string) <-chan reply {
	answer := make(chan reply, 1)
	go func() {
		defer close(answer)
		if response, err := s.start(ctx, user, "hello", nil); err == nil {
			answer <- read(response)
		}
	}()
	return answer
}

// slowly is a shell's line that waits for the file go, at most for twenty seconds, which is longer than any stop takes.
const slowly = "for i in $(seq 400); do test -e $dir/go && break; sleep 0.05; done"

func TestOwnership_AStartForAUserWhoHasMovedIsEnded(t *testing.T) {
	t.Parallel()
	s, _, counts := starting(t, slowly)
	answer := s.hello(t.Context(), "ada")
	require.Eventually(t, func() bool { return len(counts()) == 1 }, time.Minute, time.Millisecond)
	s.move("ada")
	require.Equal(t, http.StatusMisdirectedRequest, (<-answer).status, "its front finds the new owner")
	require.Empty(t, s.processes())
}

// A start goes on when its client has gone, so that the next try finds it; but that is another instance's now.
func TestOwnership_AStartForAUserWhoHasMovedIsEndedAlsoWithoutItsClient(t *testing.T) {
	t.Parallel()
	s, _, counts := starting(t, slowly)
	ctx, hangUp := context.WithCancel(t.Context())
	answer := s.hello(ctx, "ada")
	require.Eventually(t, func() bool { return len(counts()) == 1 }, time.Minute, time.Millisecond)
	hangUp()
	<-answer
	s.move("ada")
	s.gone()
	require.NotContains(t, s.logs.String(), "process started")
	require.Eventually(t, func() bool { reserved, _ := s.pool.Load(); return reserved == 0 }, time.Minute,
		time.Millisecond)
}

func TestOwnership_WhoHasMovedWaitsForNoStart(t *testing.T) {
	t.Parallel()
	n := runtime.GOMAXPROCS(0)
	s, dir, counts := starting(t, slowly)
	others := s.crowd(n)
	require.Eventually(t, func() bool { return len(counts()) == n }, time.Minute, time.Millisecond)
	answer := s.hello(t.Context(), "ada")
	require.Eventually(t, func() bool { reserved, _ := s.pool.Load(); return reserved == n+1 }, time.Minute,
		time.Millisecond)
	s.move("ada")
	require.Equal(t, http.StatusMisdirectedRequest, (<-answer).status)
	require.Len(t, counts(), n)
	s.owner.refuse(nil)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	for range n {
		require.Equal(t, "reply to: hello", (<-others).text(t))
	}
}

// listing is an archive that says when it is asked what it has of a user, and answers when it may.
type listing struct {
	archive.Store
	asked, answer chan struct{}
}

func (l *listing) List(ctx context.Context, owner string) ([]archive.Record, error) {
	if owner != "nobody" { // for whom it is asked when a pool begins
		close(l.asked)
		<-l.answer
	}
	return l.Store.List(ctx, owner)
}

func TestOwnership_WhoMovesAfterItWasLetInGetsNoProcess(t *testing.T) {
	t.Parallel()
	store, _ := kept(t)
	slow := &listing{Store: store, asked: make(chan struct{}), answer: make(chan struct{})}
	s := newScriptedService(t, keepingIn(slow))
	answer := s.hello(t.Context(), "ada")
	<-slow.asked
	s.move("ada")
	close(slow.answer)
	require.Equal(t, http.StatusMisdirectedRequest, (<-answer).status)
	require.NotContains(t, s.logs.String(), "process started")
}

func TestOwnership_ARunningTurnOfAUserWhoHasMovedIsEndedExplicitly(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	first := s.ask("ada", "one", nil)
	first.text(t)
	before := len(s.api.Calls())
	response, err := s.start(t.Context(), "ada", "two [[silence]]", nil)
	require.NoError(t, err)
	s.awaitCall(before)
	waiting := s.wait("ada", "three")
	s.move("ada")
	ended := read(response)
	require.True(t, ended.done, ended.body)
	require.Contains(t, ended.of("error")[0].Get("error.message").Str, "another instance")
	require.Equal(t, http.StatusMisdirectedRequest, (<-waiting).status)
	s.gone()
	require.Len(t, s.api.Calls(), before+1, "no other turn has begun")
}

func TestOwnership_WhoHasMovedKeepsItsConversationsFromANewToken(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	defer s.occupy("ada", nil)()
	answer := make(chan reply, 1)
	queued := s.pool.Snapshot().Queued
	go func() {
		defer close(answer)
		if response, err := s.start(t.Context(), "new", "two", replacing("ada", "new", nil)); err == nil {
			answer <- read(response)
		}
	}()
	require.Eventually(t, func() bool { return s.pool.Snapshot().Queued == queued+1 }, time.Minute, time.Millisecond)
	s.move("ada")
	require.Equal(t, http.StatusMisdirectedRequest, (<-answer).status)
	require.NotContains(t, s.logs.String(), "token was replaced")
	s.gone()
}

// To end by itself takes some CLIs seconds, so it is killed first.
func TestOwnership_AnIdleProcessOfAUserWhoHasMovedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for _, moves := range []bool{true, false} {
		killed := make(chan bool, 1)
		s := newScriptedService(t, func(o *pool.Options) {
			o.OnStop(func(pid int) error {
				for began := time.Now(); moves && lives(pid) && time.Since(began) < time.Minute; {
					time.Sleep(time.Millisecond)
				}
				killed <- !lives(pid)
				return nil
			})
		})
		s.ask("ada", "one", nil).text(t)
		if moves {
			s.move("ada")
		} else {
			s.pool.Evict(userID("ada"))
		}
		require.Equal(t, moves, <-killed)
		s.gone()
	}
}

func lives(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// Nothing of the turn has been run when its process dies, and until there is another the user may become another
// instance's.
func TestOwnership_ATurnIsNotBegunByAnotherProcessAfterTheLeasesEnd(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	first := s.ask("ada", "one", nil)
	signalProcess(t, first.pid, syscall.SIGSTOP)
	awaitState(t, first.pid, "T")
	calls := len(s.api.Calls())
	response, err := s.start(t.Context(), "ada", "two", nil)
	require.NoError(t, err)
	s.owner.refuse(errNotOwner)
	kill(t, first.pid)
	next := read(response)
	require.NotEmpty(t, next.of("error"), next.body)
	require.True(t, next.done)
	require.Len(t, s.api.Calls(), calls)
}
