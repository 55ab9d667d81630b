package pool_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

func TestParked_FilesGoWithTheConversation(t *testing.T) {
	t.Parallel()
	s := newParking(t)
	first := s.ask("ada", `[[tool=Bash {"command":"pwd; echo kept > file; mkdir -p deep/er; echo two > deep/er/file; id -u"}]]`, fields{"model": nil})
	t.Log(first.text(t))
	before := prompt(s)
	kill(t, first.pid)
	pid := s.parked("")
	r := s.ask("ada", `[[tool=Bash {"command":"pwd; cat file `+filepath.Dir(s.root)+`/current/work/deep/er/file; id -u; touch new && ls -ln"}]]`, fields{"model": nil})
	t.Log(r.text(t))
	t.Log(s.logs.String())
	require.Equal(t, pool.ProcessResumed, r.process)
	require.Equal(t, pid, r.pid)
	for _, e := range r.events {
		t.Log(e.Raw)
	}
	require.Equal(t, before, prompt(s))
}
