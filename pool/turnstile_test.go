package pool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
)

// starting is a service whose CLI writes down how many are starting, does what a line of the shell says, which may use
// $dir and that $number, and goes on as the scripted one.
func starting(t *testing.T, does string) (s *service, dir string, counts func() []string) {
	t.Helper()
	scripted, err := scriptedCLI()
	require.NoError(t, err)
	dir = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "starting"), 0o700))
	cli := filepath.Join(dir, "cli")
	text := "#!/bin/sh\ndir=" + dir + "\nmkdir $dir/starting/$$\nnumber=$(ls $dir/starting | wc -l)\necho $number " +
		">>$dir/counts\n" +
		does + "\nrmdir $dir/starting/$$\nexec " + scripted + ` "$@"` + "\n"
	require.NoError(t, os.WriteFile(cli, []byte(text), 0o700))
	s = startService(t, cli, nil, func(o *pool.Options) { o.MaxProcesses = 100 })
	return s, dir, func() []string {
		text, _ := os.ReadFile(filepath.Join(dir, "counts"))
		return strings.Fields(string(text))
	}
}

// crowd has n users ask at once, and returns their answers to come.
func (s *service) crowd(n int) <-chan reply {
	answers := make(chan reply, n)
	for i := range n {
		go func() {
			var r reply
			if response, err := s.start(s.t.Context(), fmt.Sprint("user", i), "hello", nil); err == nil {
				r = read(response)
			}
			answers <- r
		}()
	}
	return answers
}

func TestTurnstile_NoMoreProcessesStartAtATimeThanThereAreProcessors(t *testing.T) {
	const users = 12
	s, _, counts := starting(t, "sleep 0.1")
	for answers := s.crowd(users); len(counts()) < users; {
		require.Equal(t, "reply to: hello", (<-answers).text(t))
	}
	for _, text := range counts() {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		require.LessOrEqual(t, n, runtime.GOMAXPROCS(0))
	}
}

// A tenant can have its own CLI start slowly, by what it puts into its workspace.
func TestTurnstile_StartsThatHangHoldUpNobodyForLong(t *testing.T) {
	n := runtime.GOMAXPROCS(0)
	s, dir, counts := starting(t, fmt.Sprintf("test $number -gt %d || until test -e $dir/go; do sleep 0.05; done", n))
	hanging := s.crowd(n)
	require.Eventually(t, func() bool { return len(counts()) == n }, time.Minute, time.Millisecond)
	s.ask("ada", "one", nil).text(t)
	require.Empty(t, hanging)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	for range n {
		require.Equal(t, "reply to: hello", (<-hanging).text(t))
	}
}
