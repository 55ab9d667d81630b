package confine

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/testkit/need"
)

func TestFamily_SetIdleIsForAllThreadsOfAChildAndWhatItStartsAndCanBeTakenBack(t *testing.T) {
	b := newConfined(t)
	c := b.start(shell(b.newWorkspace(), `setsid sh -c 'echo $$ >> $0; while :; do sleep 1; done' $1 & exec cat`))
	policies := func() (found []uint32) {
		u, err := c.Usage()
		require.NoError(t, err)
		for _, p := range u.Family {
			if attr, err := unix.SchedGetAttr(p.pid, 0); err == nil {
				found = append(found, attr.Policy)
			}
		}
		return found
	}
	pids(t, c.workspace, 1)
	idle := func(is bool, without uint32) { // again and again, as what is begun in the midst of it may be missed
		require.Eventually(t, func() bool {
			u, err := c.Usage()
			require.NoError(t, err)
			require.NoError(t, u.SetIdle(is))
			return !slices.Contains(policies(), without)
		}, patience, 10*time.Millisecond)
	}
	idle(true, unix.SCHED_NORMAL)
	for range 20 {
		for _, policy := range policies() {
			require.EqualValues(t, unix.SCHED_IDLE, policy)
		}
		time.Sleep(time.Millisecond)
	}
	idle(false, unix.SCHED_IDLE)
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
}

// A tenant can't undo it: what is put behind others stays there.
func TestConfined_AChildCantLeaveTheIdlePolicy(t *testing.T) {
	b := newConfined(t)
	c := b.start(shell(b.newWorkspace(), `read line; chrt -o -p 0 $$ && echo left || echo stayed`))
	u, err := c.Usage()
	require.NoError(t, err)
	require.NoError(t, u.SetIdle(true))
	_, err = c.Stdin.Write([]byte("go\n"))
	require.NoError(t, err)
	require.Equal(t, "stayed", readLine(t, c.Stdout))
}

func TestFamily_StandAndRunsAndSetYield(t *testing.T) {
	b := newConfined(t)
	c := b.start(shell(b.newWorkspace(), `sh -c 'echo $$ >> $0; while :; do :; done' $1 & exec cat`))
	busy := pids(t, c.workspace, 1)[0]
	u, err := c.Usage()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return u.Running() > 0 }, patience, time.Millisecond)
	require.Less(t, u.Running(), 50)
	u.SetStopped(true)
	require.Eventually(t, func() bool { return u.Running() == 0 }, patience, time.Millisecond)
	u.SetStopped(false)
	require.Eventually(t, func() bool { return u.Running() > 0 }, patience, time.Millisecond)

	u.SetOOMVictim(c.PID(), true)
	require.Equal(t, []int{growerScore, maxScore}, []int{oomScore(t, c.PID()), oomScore(t, busy)})
	u.SetOOMVictim(c.PID(), false)
	require.Equal(t, []int{childScore(), childScore()}, []int{oomScore(t, c.PID()), oomScore(t, busy)})
}

func TestFamily_CountsTheTimeOfOrphansThatHaveEnded(t *testing.T) {
	b := newConfined(t)
	c := b.start(shell(b.newWorkspace(), `(setsid sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo $$ >> `+
		`$0' $1 &); exec cat`))
	pids(t, c.workspace, 1)
	require.Eventually(t, func() bool {
		u, err := c.Usage()
		require.NoError(t, err)
		return u.Processes == 1 && u.CPU > 50*time.Millisecond
	}, patience, 10*time.Millisecond)
}

func TestTakePulse_TellsOfTheMachine(t *testing.T) {
	p := ReadMachineLoad()
	require.Positive(t, p.Available)
	require.Greater(t, p.Total, p.Available)
	require.Positive(t, p.Files)
	require.Greater(t, p.MostFiles, p.Files)
	text, err := os.ReadFile("/proc/loadavg")
	require.NoError(t, err)
	require.Contains(t, string(text), "/", "where running threads stand before")
	_, err = strconv.Atoi(strings.Split(strings.Fields(string(text))[3], "/")[0])
	require.NoError(t, err)
	require.Positive(t, p.Runnable)
}

func TestPrecede_IsForTheServiceAndNotForItsChildren(t *testing.T) {
	need.Root(t)
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	require.NoError(t, err)
	service, out := startOutside(t, "precede", t.TempDir())
	require.Equal(t, fmt.Sprint(30, " ", before), readLine(t, out))
	require.NoError(t, service.Wait())
}
