package confine

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/testkit/need"
)

// grouped is a service in the group given, whose children have groups with the controllers given. It prints the pid of
// a child, and ends in order when its input does.
func grouped(args []string) {
	root, base, controllers := args[0], args[1], strings.Fields(args[2])
	check(writeCgroup(base, "cgroup.procs", "0"))
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	tree, err := ownTree.join(controllers)
	check(err)
	groups := &Cgroups{tree: tree, logger: log}
	second, err := NewCgroups(CgroupLimits{}, log) // another instance in the same process, which ends before
	check(err)
	check(second.Close())
	check(second.Close())

	l, err := New(Options{Root: root, Logger: log, Confinement: &Confinement{BestEffort: true, Cgroups: groups}})
	check(err)
	workspace, err := l.NewWorkspace()
	check(err)
	const text = "setsid sh -c 'sleep 600 & echo started; exec sleep 600' & exec sleep 600"
	c, err := l.Start(context.Background(), shell(workspace, text))
	check(err)
	_, err = c.Stdout.Read(make([]byte, len("started\n")))
	check(err)
	fmt.Println(c.PID())
	_, _ = io.Copy(io.Discard, os.Stdin)
	check(c.Stop(context.Background(), Ladder{}))
	if left := groupsIn(tree.dir); len(left) > 0 {
		check(fmt.Errorf("left: %v", left))
	}
	check(l.Close())
	check(groups.Close())
	if !holds(base, os.Getpid()) {
		check(fmt.Errorf("not back in %s", base))
	}
}

// newBase makes a group of version 2, and returns it with what controllers it has that can be used here. At the test's
// end nothing may be in it.
func newBase(t *testing.T) (base, controllers string) {
	need.Root(t)
	top := t.TempDir()
	need.Part(t, top, unix.Mount("none", top, "cgroup2", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(top, 0)) })
	for _, name := range strings.Fields(readCgroup(top, "cgroup.controllers")) {
		if lists(top, "cgroup.subtree_control", name) {
			continue // somebody else's
		}
		if writeCgroup(top, "cgroup.subtree_control", "+"+name) == nil {
			t.Cleanup(func() { require.NoError(t, writeCgroup(top, "cgroup.subtree_control", "-"+name)) })
			controllers += name + " "
		}
	}
	base = filepath.Join(top, "test-"+strings.ToLower(rand.Text()))
	require.NoError(t, os.Mkdir(base, 0o755))
	t.Cleanup(func() {
		if t.Failed() {
			_ = writeCgroup(base, "cgroup.kill", "1")
			removeDeadTrees(base)
		}
		require.NoError(t, removeGroup(base))
	})
	return base, controllers
}

// service is a grouped one that has been started.
type service struct {
	*exec.Cmd
	stdin io.Closer
	child int
}

func startGrouped(t *testing.T, base, controllers string) service {
	cmd := exec.Command("/proc/self/exe", "-helper", "grouped", t.TempDir(), base, controllers)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() }) // if the test fails
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return service{cmd, stdin, number(t, strings.TrimSpace(line))}
}

func (s service) end(t *testing.T) {
	require.NoError(t, s.stdin.Close())
	require.NoError(t, s.Wait())
}

// groupOf is the group of a process as /proc tells it.
func groupOf(t *testing.T, pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	require.NoError(t, err)
	_, path, found := strings.Cut("\n"+string(text), "\n0::")
	require.True(t, found)
	return strings.TrimSpace(path)
}

func TestCgroups_AChildAndAllItStartedAreInAGroupThatGoesWithThem(t *testing.T) {
	base, controllers := newBase(t)
	s := startGrouped(t, base, controllers)
	trees := groupsIn(base)
	require.Len(t, trees, 1)
	own, childs := groupOf(t, s.Process.Pid), groupOf(t, s.child)
	require.Equal(t, "/"+filepath.Base(base)+"/"+filepath.Base(trees[0])+"/service", own)
	require.Equal(t, filepath.Dir(own), filepath.Dir(childs))
	require.NotEqual(t, own, childs)
	inGroup := strings.Fields(readCgroup(filepath.Join(trees[0], filepath.Base(childs)), "cgroup.procs"))
	require.Greater(t, len(inGroup), 2, "also what left its session")
	for name := range strings.FieldsSeq(controllers) {
		require.True(t, lists(trees[0], "cgroup.subtree_control", name))
	}
	s.end(t)
	require.Empty(t, groupsIn(base))
	require.Empty(t, readCgroup(base, "cgroup.subtree_control"))
	for _, pid := range inGroup {
		requireGone(t, number(t, pid))
	}
}

func TestCgroups_WhatADeadInstanceLeftIsEndedAndRemovedAndALivingOnesIsNot(t *testing.T) {
	base, _ := newBase(t)
	dead := startGrouped(t, base, "")
	living := startGrouped(t, base, "")
	of := func(s service) string { return filepath.Join(base, filepath.Base(filepath.Dir(groupOf(t, s.child)))) }
	left, kept := of(dead), of(living)
	require.NoError(t, dead.Process.Kill())
	require.Error(t, dead.Wait())

	hidden, err := os.Open(filepath.Join(left, filepath.Base(groupOf(t, dead.child))))
	require.NoError(t, err)
	defer hidden.Close()
	survivor := exec.Command("/bin/sleep", "600")
	survivor.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(hidden.Fd())}
	require.NoError(t, survivor.Start())

	next := startGrouped(t, base, "")
	require.ErrorContains(t, survivor.Wait(), "killed")
	require.NoDirExists(t, left)
	require.ElementsMatch(t, []string{kept, of(next)}, groupsIn(base))
	living.end(t)
	next.end(t)
	require.Empty(t, groupsIn(base))
}

// Limits can be handed down by a group only that has no process.
func TestCgroups_WhereOthersAreInTheServicesGroupAllStaysAsItWas(t *testing.T) {
	base, controllers := newBase(t)
	if controllers == "" {
		need.Part(t, "", errors.New("no controller of version 2 can be had"))
	}
	other := exec.Command("/bin/sleep", "600")
	dir, err := os.Open(base)
	require.NoError(t, err)
	defer dir.Close()
	other.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	require.NoError(t, other.Start())
	cmd := exec.Command("/proc/self/exe", "-helper", "grouped", t.TempDir(), base, controllers)
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "busy")
	require.Empty(t, groupsIn(base))
	require.NoError(t, other.Process.Kill())
	require.Error(t, other.Wait())
}

// fakeBase looks like a group that has controllers, to see what is written where.
func fakeBase(t *testing.T, controllers string) string {
	base := t.TempDir()
	require.NoError(t, writeCgroup(base, "cgroup.controllers", controllers))
	require.NoError(t, writeCgroup(base, "cpu.idle", "0"))
	return base
}

func TestCgroups_LimitsAreWrittenAndReadBack(t *testing.T) {
	base := fakeBase(t, "cpu memory pids")
	limits := CgroupLimits{Memory: 1 << 30, Processes: 100}
	tree, err := newCgroupTree(base, limits.controllers())
	require.NoError(t, err)
	require.Equal(t, "0", readCgroup(tree.service(), "cgroup.procs"))
	require.Equal(t, []string{"memory", "pids", "cpu"}, tree.enabled)
	require.Equal(t, "+cpu", readCgroup(tree.dir, "cgroup.subtree_control"), "the last of them")
	require.Equal(t, "10000", readCgroup(tree.service(), "cpu.weight"))

	groups := &Cgroups{tree: tree, limits: limits, logger: slog.New(slog.DiscardHandler)}
	g := groups.newGroup()
	require.NotNil(t, g)
	defer g.dir.Close()
	dir := g.dir.Name()
	for file, value := range map[string]string{
		"memory.max": "1073741824", "memory.oom.group": "1", "memory.swap.max": "0", "pids.max": "100",
	} {
		require.Equal(t, value, readCgroup(dir, file), file)
	}
	g.setIdle(true)
	require.Equal(t, "1", readCgroup(dir, "cpu.idle"))
	g.setIdle(false)
	require.Equal(t, "0", readCgroup(dir, "cpu.idle"))

	require.Equal(t, []string{"has no group of its own"}, groups.missing(g, 42))
	require.NoError(t, writeCgroup(dir, "cgroup.procs", "41\n42\n"))
	require.Equal(t, []string{"memory isn't counted", "pids isn't counted"}, groups.missing(g, 42))
	require.NoError(t, writeCgroup(dir, "memory.current", "4096"))
	require.NoError(t, writeCgroup(dir, "pids.current", "1"))
	require.Empty(t, groups.missing(g, 42))
	require.NoError(t, writeCgroup(dir, "memory.max", "max"))
	require.Equal(t, []string{`memory.max is "max"`}, groups.missing(g, 42))
}

func TestCgroups_WithoutTheControllersNothingIsTouched(t *testing.T) {
	base := fakeBase(t, "cpu memory")
	_, err := newCgroupTree(base, CgroupLimits{Memory: 1, Processes: 1}.controllers())
	require.ErrorContains(t, err, "pids")
	require.Empty(t, groupsIn(base))
}

func TestCgroups_AChildIsStartedAlsoWhereItsGroupCantBeMadeOrTakesNobody(t *testing.T) {
	for name, text := range map[string]string{
		"nowhere":   "a process has no control group",
		"elsewhere": "a process can't be started in its control group",
	} {
		t.Run(name, func(t *testing.T) {
			groups := &Cgroups{tree: &cgroupTree{dir: filepath.Join(t.TempDir(), name)}}
			if name == "elsewhere" { // in a file system that has no groups
				require.NoError(t, os.Mkdir(groups.tree.dir, 0o755))
			}
			b := newBenchWith(t, &Confinement{BestEffort: true, Cgroups: groups})
			groups.logger = b.logger
			require.Equal(t, "hello", b.says(b.newWorkspace(), "echo hello"))
			require.Contains(t, b.logs.String(), text)
			report, err := b.Probe(t.Context(), "/bin/sh")
			require.NoError(t, err)
			require.False(t, report.InForce(ProtectionCgroup))
			require.NotContains(t, report.Missing(), "group", "an extra")
		})
	}
}
