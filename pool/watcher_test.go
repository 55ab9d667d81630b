package pool

import (
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/testkit/need"
	"claudepool/pool/confine"
)

// newFamily is a child that has started others in sessions of their own, whose pids are returned.
func newFamily(t *testing.T, others int) (confine.Family, []int) {
	t.Helper()
	launcher, err := confine.New(confine.Options{Root: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, launcher.Close()) })
	workspace, err := launcher.NewWorkspace()
	require.NoError(t, err)
	script := strings.Repeat("setsid sleep 600 & ", others) + "exec cat"
	child, err := launcher.Start(t.Context(), confine.Spec{Path: "/bin/sh", Args: []string{"-c", script},
		Env: []string{"PATH=" + os.Getenv("PATH")}, Workspace: workspace})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, child.Stop(t.Context(), confine.Ladder{})) })
	var family confine.Family
	var pids []int
	require.Eventually(t, func() bool {
		families, err := confine.FamiliesOf(child)
		require.NoError(t, err)
		family, pids = families[0], childrenOf(t, child.PID())
		return len(pids) == others && family.Living() == others+1 && family.Sessions() == others+1
	}, 30*time.Second, 10*time.Millisecond)
	return family, pids
}

func childrenOf(t *testing.T, pid int) (pids []int) {
	t.Helper()
	of := strconv.Itoa(pid)
	text, err := os.ReadFile("/proc/" + of + "/task/" + of + "/children")
	require.NoError(t, err)
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}

func awaitStopped(t *testing.T, pids []int, stopped bool) {
	t.Helper()
	for _, pid := range pids {
		require.Eventually(t, func() bool {
			stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
			require.NoError(t, err)
			_, after, _ := strings.Cut(string(stat), ") ")
			return stopped == (after[0] == 'T')
		}, 30*time.Second, time.Millisecond)
	}
}

func newTestWatcher() *watcher {
	return newWatcher(&Pool{opts: Options{Logger: slog.New(slog.DiscardHandler)}, tuning: tuning{horde: 1}})
}

// A token that is replaced makes a user's processes another's, while they stand still.
func TestWatcher_WhatStandsStillGoesOnWhenItsUserIsAnotherOne(t *testing.T) {
	t.Parallel()
	family, pids := newFamily(t, 3)
	w := newTestWatcher()
	family.SetStopped(true)
	w.held["ada"], w.stopped = 0, family
	w.hold(map[string]confine.Family{"ada": family})
	require.Contains(t, w.held, "ada")
	awaitStopped(t, pids, true) // until it wants nothing for a while
	w.hold(map[string]confine.Family{"eve": family})
	require.Empty(t, w.held)
	awaitStopped(t, pids, false)
}

// Of a user whose token is replaced some conversations may stay, and what stands still of each counts by itself.
func TestWatcher_WhatStandsStillGoesOnWhenPartOfItIsAnotherUsers(t *testing.T) {
	t.Parallel()
	stays, staying := newFamily(t, 3)
	goes, going := newFamily(t, 3)
	w := newTestWatcher()
	w.pool.tuning.horde = 2
	both := slices.Concat(stays, goes)
	both.SetStopped(true)
	w.held["ada"], w.stopped = 0, both
	w.hold(map[string]confine.Family{"ada": both})
	awaitStopped(t, slices.Concat(staying, going), true)
	w.hold(map[string]confine.Family{"ada": stays, "eve": goes})
	require.Contains(t, w.held, "ada")
	require.NotContains(t, w.held, "eve")
	awaitStopped(t, going, false)
	awaitStopped(t, staying, true)
}

func TestWatcher_WhoIsSlowedIsSetBackWhenItsUserIsAnotherOne(t *testing.T) {
	need.Root(t)
	t.Parallel()
	family, pids := newFamily(t, 3)
	w := newTestWatcher()
	idle := func() (n int) {
		for _, pid := range pids {
			attr, err := unix.SchedGetAttr(pid, 0)
			require.NoError(t, err)
			if attr.Policy == unix.SCHED_IDLE {
				n++
			}
		}
		return n
	}
	l := look{seen: seen{user: "ada"}, usage: confine.Usage{Family: family}, record: &record{over: overLooks}}
	l.spent = time.Hour
	w.share([]look{l}, confine.MachineLoad{Runnable: 1 << 20}, time.Second)
	require.Equal(t, map[string]bool{"ada": true}, w.slow)
	require.Equal(t, len(pids), idle())
	l.user, l.spent = "eve", 0
	w.share([]look{l}, confine.MachineLoad{}, time.Second)
	require.Empty(t, w.slow)
	require.Zero(t, idle())
	require.True(t, w.waking, "what was begun in the midst of it may have been missed")
	for range wakeLooks {
		w.share([]look{l}, confine.MachineLoad{}, time.Second)
	}
	require.False(t, w.waking)
}

// To go on between two looks would undo that a horde stands still.
func TestWatcher_WhereNobodyCanBeSlowedOtherwiseAHordeStillStandsStill(t *testing.T) {
	if os.Getuid() == 0 {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	w := newTestWatcher()
	w.held["ada"] = 0
	w.setSlow(look{seen: seen{user: "ada"}}, true) // which has no process to stand still
	w.pool.work.Wait()
}
