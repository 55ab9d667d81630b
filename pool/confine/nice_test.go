package confine

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/testkit/need"
)

func TestSetNice_IsForAllThreadsAndCanBeTakenBack(t *testing.T) {
	need.Root(t) // to come back from a lower priority
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "deaf")) // in Go, so it has several threads
	require.Equal(t, "ready", readLine(t, c.Stdout))
	for _, n := range []int{10, 0} {
		require.NoError(t, c.SetNice(n))
		tasks, err := os.ReadDir("/proc/" + strconv.Itoa(c.PID()) + "/task")
		require.NoError(t, err)
		require.Greater(t, len(tasks), 1)
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			require.NoError(t, err)
			got, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
			require.NoError(t, err)
			require.Equal(t, 20-n, got, "the system call's answer is 20 minus nice")
		}
	}
}
