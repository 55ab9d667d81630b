package pool_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

func TestQuota_ATurnThatFillsTheWorkspaceIsEndedAndTheUserCanStillCleanUp(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.Quota = pool.Space{Bytes: 1 << 20, Files: 1000} })
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
	s := newScriptedService(t, func(o *pool.Options) { o.Quota = pool.Space{Bytes: 1 << 20, Files: 1000} })
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
	s := newScriptedService(t, func(o *pool.Options) { o.Quota = pool.Space{Bytes: 1 << 20, Files: 1000} })
	s.ask("ada", "one", nil).text(t)
	require.NoError(t, os.Symlink("/usr", filepath.Join(home(t, s), "work", "all")))
	s.ask("ada", "two", nil).text(t)
	s.pool.CheckSpace()
	require.Equal(t, "reply to: three", s.ask("ada", "three", nil).text(t))
}
