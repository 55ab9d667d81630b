package pool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
	"claudepool/pool/confine"
	"claudepool/pool/workspace"
)

func TestQuota_ATurnThatFillsTheWorkspaceIsEndedAndTheUserCanStillCleanUp(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.Quota = workspace.Space{Bytes: 1 << 20, Files: 1000} })
	s.ask("ada", "one", nil).text(t)
	fill := filepath.Join(home(t, s), "work", "fill")
	during := func(then func()) reply {
		response, err := s.start(t.Context(), "ada", "long [[events=100000]][[delay=10ms]]", nil)
		require.NoError(t, err)
		then()
		s.pool.CheckSpace()
		time.AfterFunc(2*time.Second, func() { _ = response.Body.Close() })
		return read(response)
	}
	r := during(func() { require.NoError(t, os.WriteFile(fill, make([]byte, 1536<<10), 0o600)) })
	require.Len(t, r.of("error"), 1, r.body)
	require.Contains(t, r.of("error")[0].Get("error.message").Str, "beyond 1048576 bytes or 1000 files")
	require.True(t, r.done)

	r = during(func() { require.NoError(t, os.Remove(fill)) })
	require.Empty(t, r.of("error"), "less than before is no offence")

	require.NoError(t, os.WriteFile(fill, make([]byte, 3<<20), 0o600))
	s.ask("ada", "two", nil).text(t)
	s.pool.CheckSpace()
	refused := s.ask("ada", "three", nil)
	require.Equal(t, 400, refused.status)
	require.Contains(t, refused.body, "twice what they may")
}

func TestQuota_FilesAreCountedTheEmptyOnesToo(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.Quota = workspace.Space{Bytes: 1 << 20, Files: 1000} })
	s.ask("ada", "one", nil).text(t)
	litter := filepath.Join(home(t, s), "work", "litter")
	require.NoError(t, os.Mkdir(litter, 0o700))
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			require.NoError(t, os.WriteFile(filepath.Join(litter, strconv.Itoa(i)), nil, 0o600))
		}
	}
	fill(0, 900)
	s.ask("ada", "two", nil).text(t)
	s.pool.CheckSpace()
	response, err := s.start(t.Context(), "ada", "long [[events=100000]][[delay=10ms]]", nil)
	require.NoError(t, err)
	fill(900, 1500)
	s.pool.CheckSpace()
	r := read(response)
	require.Len(t, r.of("error"), 1, r.body)
	require.Contains(t, r.of("error")[0].Get("error.message").Str, "beyond 1048576 bytes or 1000 files")

	require.Equal(t, "reply to: three", s.ask("ada", "three", nil).text(t), "to clean up")
	fill(1500, 2500)
	s.ask("ada", "four", nil).text(t)
	s.pool.CheckSpace()
	require.Equal(t, 400, s.ask("ada", "five", nil).status)
}

func TestQuota_LinksLeadNowhere(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.Quota = workspace.Space{Bytes: 1 << 20, Files: 1000} })
	s.ask("ada", "one", nil).text(t)
	require.NoError(t, os.Symlink("/usr", filepath.Join(home(t, s), "work", "all")))
	s.ask("ada", "two", nil).text(t)
	s.pool.CheckSpace()
	require.Equal(t, "reply to: three", s.ask("ada", "three", nil).text(t))
}

// work is where the process of a user's only conversation works.
func (s *service) work(user string) string {
	s.t.Helper()
	links, err := filepath.Glob(filepath.Join(s.root, userID(user), "*"))
	require.NoError(s.t, err)
	require.Len(s.t, links, 1)
	workspace, err := filepath.EvalSymlinks(links[0])
	require.NoError(s.t, err)
	return filepath.Join(workspace, "work")
}

// writes puts so many MiB into a user's workspace.
func (s *service) writes(user string, mebibytes int) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.work(user), "fill"), make([]byte, mebibytes<<20), 0o600))
}

func (s *service) awaitEnd(pid string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return !exists(pid) }, time.Minute, 5*time.Millisecond)
}

func (s *service) awaitReleased(n int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return len(s.owner.releasedUsers()) == n }, time.Minute, 5*time.Millisecond)
}

// smallQuota leaves no other reason for which an idle process could end, and takes no notice of what else is written to
// and removed from the machine's disk meanwhile.
func smallQuota(o *pool.Options) {
	o.Quota, o.IdleTimeout = workspace.Space{Bytes: 4 << 20, Files: 1000}, time.Hour
	o.SetDisk(func() (total, free workspace.Space) { return total, free })
}

// What a turn has started writes on after its end.
func TestQuota_WhoFillsTheWorkspaceBetweenTurnsIsEnded(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, smallQuota)
	ada, bob := s.ask("ada", "one", nil), s.ask("bob", "one", nil)
	s.pool.CheckSpace()
	s.pool.CheckSpace()
	require.True(t, exists(ada.pid))
	s.writes("ada", 6)
	s.pool.CheckSpace()
	s.awaitEnd(ada.pid)
	s.awaitReleased(1)
	require.Equal(t, bob.pid, s.ask("bob", "two", nil).pid)
	again := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", again.text(t), "to clean up")
	require.Equal(t, pool.ProcessResumed, again.process)
}

func TestQuota_WhatStandsStillIsntMeasured(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { smallQuota(o); o.FreezeAfter = 2 * time.Second })
	ada := s.ask("ada", "one", nil)
	awaitState(t, ada.pid, "T")
	s.pool.CheckSpace() // after the turn
	s.writes("ada", 6)
	s.pool.CheckSpace()
	require.Equal(t, ada.pid, s.ask("ada", "two", nil).pid)
	awaitState(t, ada.pid, "T")
	s.pool.CheckSpace()
	s.awaitEnd(ada.pid)
}

func TestQuota_WhileNothingIsWrittenNobodyIsMeasuredBetweenTurns(t *testing.T) {
	t.Parallel()
	var used atomic.Int64
	s := newScriptedService(t, func(o *pool.Options) {
		smallQuota(o)
		o.SetDisk(func() (total, free workspace.Space) {
			total = workspace.Space{Bytes: 1 << 40, Files: 1 << 30}
			return total, workspace.Space{Bytes: total.Bytes - used.Load(), Files: total.Files}
		})
	})
	ada := s.ask("ada", "one", nil)
	used.Store(100 << 20)
	s.pool.CheckSpace()
	s.pool.CheckSpace() // the first one came after a turn
	s.writes("ada", 6)
	s.pool.CheckSpace()
	require.NotContains(t, s.logs.String(), "over their quota")
	used.Store(10 << 20) // others have removed something
	s.pool.CheckSpace()
	used.Store(11 << 20)
	s.pool.CheckSpace()
	s.awaitEnd(ada.pid)
}

func TestQuota_WhatIsTooDeepToBeMeasuredIsTooMuch(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, smallQuota)
	ada := s.ask("ada", "one", nil)
	deep := s.work("ada")
	for range confine.MaxDepth {
		deep = filepath.Join(deep, "d")
	}
	require.NoError(t, os.MkdirAll(deep, 0o700))
	s.pool.CheckSpace()
	s.awaitEnd(ada.pid)
	refused := s.ask("ada", "two", nil)
	require.Equal(t, 400, refused.status)
	require.Contains(t, refused.body, "256 levels of folders")
	other := s.ask("ada", "two", fields{"session_id": uuid.NewString()})
	require.Equal(t, 400, other.status)
	require.Equal(t, "reply to: two", s.ask("bob", "two", nil).text(t))
	require.Equal(t, `{"deleted":1}`, s.forget("ada", ""))
	require.Equal(t, "reply to: three", s.ask("ada", "three", nil).text(t))
}

// Who deletes one of several conversations may have enough room again.
func TestQuota_WhatIsDeletedDoesntCountAnyMore(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, smallQuota)
	large := uuid.NewString()
	s.ask("ada", "one", fields{"session_id": large}).text(t)
	s.writes("ada", 10)
	s.ask("ada", "one", fields{"session_id": uuid.NewString()}).text(t)
	s.pool.CheckSpace()
	require.Equal(t, 400, s.ask("ada", "two", nil).status)
	require.Equal(t, `{"deleted":1}`, s.forget("ada", large))
	s.pool.CheckSpace()
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t))
}

// More users than may be measured side by side, each a step at a time.
func TestQuota_WhoTakesLongToMeasureIsMeasuredAllTheSame(t *testing.T) {
	t.Parallel()
	const users = 10
	s := newScriptedService(t, func(o *pool.Options) { smallQuota(o); o.MaxProcesses = users; o.SetSlice(0) })
	var pids []string
	for i := range users {
		user := fmt.Sprint("user-", i)
		pids = append(pids, s.ask(user, "one", nil).pid)
		for n := range 50 {
			require.NoError(t, os.WriteFile(filepath.Join(s.work(user), strconv.Itoa(n)), nil, 0o600))
		}
		s.writes(user, 6)
	}
	s.pool.CheckSpace()
	for _, pid := range pids {
		s.awaitEnd(pid)
	}
}

// crowdedDisk is a disk of which bytes are missing until what is given is gone.
func crowdedDisk(missing int64, until func() bool) func(*pool.Options) {
	return func(o *pool.Options) {
		smallQuota(o)
		o.SetDisk(func() (total, free workspace.Space) {
			total = workspace.Space{Bytes: 1 << 30, Files: 1 << 20}
			free = workspace.Space{Bytes: total.Bytes / 10, Files: total.Files}
			if !until() {
				free.Bytes -= missing
			}
			return total, free
		})
	}
}

func TestDisk_WhereItIsShortTheLongestUnusedFilesGiveWay(t *testing.T) {
	t.Parallel()
	var gone func() bool
	s := newScriptedService(t, crowdedDisk(4<<20, func() bool { return gone() }))
	gone = func() bool { return true }
	ada := s.ask("ada", "one", nil)
	bob := s.ask("bob", "one", nil)
	workspace := s.work("ada")
	s.writes("ada", 3)
	s.writes("bob", 3)
	s.pool.CheckSpace()
	require.True(t, exists(ada.pid))
	gone = func() bool { return !fileExists(workspace) }
	s.pool.CheckSpace()
	require.False(t, exists(ada.pid))
	require.NoDirExists(t, workspace)
	require.Equal(t, bob.pid, s.ask("bob", "two", nil).pid)
	again := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", again.text(t))
	require.Len(t, s.lastCall().Messages(), 1, "it begins anew")
}

func TestDisk_WhereOthersFilledItNobodysFilesGiveWayButThoseOfWhoHasTooMuch(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, crowdedDisk(100<<20, func() bool { return false }))
	ada, bob := s.ask("ada", "one", nil), s.ask("bob", "one", nil)
	s.writes("bob", 3)
	s.pool.CheckSpace()
	require.True(t, exists(ada.pid))
	require.True(t, exists(bob.pid))
	workspace := s.work("bob")
	s.writes("bob", 10)
	s.ask("bob", "two", nil).text(t)
	s.pool.CheckSpace()
	s.awaitEnd(bob.pid)
	require.Eventually(t, func() bool { s.pool.CheckSpace(); return !fileExists(workspace) }, time.Minute,
		10*time.Millisecond)
	require.Equal(t, ada.pid, s.ask("ada", "two", nil).pid)
	require.Equal(t, "reply to: three", s.ask("cleo", "three", nil).text(t), "there may be room enough")
}

func TestDisk_WhileAllFilesAreInUseNoConversationBegins(t *testing.T) {
	t.Parallel()
	var free atomic.Bool
	s := newScriptedService(t, crowdedDisk(1<<10, free.Load))
	s.ask("ada", "one", nil).text(t)
	hangUp := s.occupy("ada", nil)
	s.pool.CheckSpace()
	requireRefused(t, 529, "overloaded_error", s.ask("bob", "one", nil))
	hangUp()
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t), "what has begun goes on")
	free.Store(true)
	s.pool.CheckSpace()
	require.Equal(t, "reply to: one", s.ask("bob", "one", nil).text(t))
}

func TestDisk_OfSeveralUsersTheLargestGivesWayFirst(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, smallQuota)
	for i, user := range []string{"ada", "bob", "cleo"} {
		s.ask(user, "one", nil).text(t)
		s.writes(user, []int{1, 3, 2}[i])
	}
	s.pool.CheckSpace()
	for _, user := range []string{"bob", "cleo", "ada"} {
		workspace := s.work(user)
		require.True(t, s.pool.EvictLargest())
		require.False(t, fileExists(workspace), user)
	}
	require.False(t, s.pool.EvictLargest())
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
