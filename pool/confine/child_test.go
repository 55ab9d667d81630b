package confine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestChild_HasTheEnvironmentItWasGivenAndItsMarker(t *testing.T) {
	t.Setenv("SECRET_OF_THE_SERVICE", "x")
	b := newBench(t)
	w := b.workspace("w")
	c := b.start(Spec{Path: "/usr/bin/env", Env: []string{"A=1", Marker + "=/else"}, Workspace: w})
	out, err := io.ReadAll(c.Stdout)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"A=1", Marker + "=" + w}, strings.Fields(string(out)))
}

func TestChild_HasNoFilesButItsPipes(t *testing.T) {
	b := newBench(t)
	c := b.start(Spec{Path: "/bin/ls", Args: []string{"/proc/self/fd"}, Workspace: b.workspace("w")})
	out, err := io.ReadAll(c.Stdout)
	require.NoError(t, err)
	require.Equal(t, []string{"0", "1", "2", "3"}, strings.Fields(string(out)), "3 is the folder that is listed")
}

func TestChild_RunsInItsWorkspaceInASessionOfItsOwnAndWithLimits(t *testing.T) {
	b := newBench(t)
	c := b.script("pwd; sleep 1000")
	require.Equal(t, b.workspace("w"), readLine(t, c.Stdout))

	p, err := look(c.PID())
	require.NoError(t, err)
	require.Equal(t, c.PID(), p.session)
	require.Equal(t, c.PID(), p.pgrp)
	var core unix.Rlimit
	require.NoError(t, unix.Prlimit(c.PID(), unix.RLIMIT_CORE, nil, &core))
	require.Zero(t, core)
	require.Equal(t, "unknown exit status", c.Exit().String(), "it runs")
	require.Greater(t, oomScore(t, c.PID()), oomScore(t, os.Getpid()))
}

func oomScore(t *testing.T, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	require.NoError(t, err)
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	return score
}

func TestChild_ExitIsKnownWhenDoneIsClosed(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "exit", "7"))
	requireDone(t, c)
	require.Equal(t, Exit{Code: 7}, c.Exit())
	require.Equal(t, "exit status 7", c.Exit().String())

	c = b.start(Spec{Path: "/bin/sleep", Args: []string{"1000"}, Workspace: b.workspace("other")})
	require.NoError(t, c.Signal(syscall.SIGUSR1))
	requireDone(t, c)
	require.Equal(t, syscall.SIGUSR1, c.Exit().Signal)
}

func TestChild_KeepsTheEndOfItsStderrOnly(t *testing.T) {
	b := newBench(t)
	c := b.script(`head -c 100000 /dev/zero | tr '\0' x >&2; echo the end >&2`)
	requireDone(t, c)
	require.Len(t, c.StderrTail(), stderrKept)
	require.True(t, strings.HasSuffix(c.StderrTail(), "xthe end\n"))
}

func TestChild_OutputOfADeadChildIsReadToItsEnd(t *testing.T) {
	b := newBench(t)
	c := b.script("head -c 50000 /dev/zero")
	require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: patience}))
	out, err := io.ReadAll(c.Stdout)
	require.NoError(t, err)
	require.Len(t, out, 50000)
}

func TestChild_AnEndHidesNoLeakedPipe(t *testing.T) {
	b := newBench(t)
	c := b.script("setsid sleep 1000 & setsid sleep 1000 >/dev/null & exit 4")
	out, err := io.ReadAll(c.Stdout) // both hold stderr, one stdout as well
	require.NoError(t, err)
	require.Empty(t, out)
	requireDone(t, c)
	require.Equal(t, 4, c.Exit().Code)
}

func TestOutput_EndsAlthoughSomebodyUnknownHoldsThePipe(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer w.Close()
	over := make(chan struct{})
	close(over)
	o := &output{file: r, cleanedUp: over}
	defer o.Close()
	_, err = w.WriteString("rest")
	require.NoError(t, err)
	got, err := io.ReadAll(o)
	require.NoError(t, err)
	require.Equal(t, "rest", string(got))
}

func TestStop_ClosingStdinIsEnoughForMost(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "cat"))
	_, err := io.WriteString(c.Stdin, "hello\n")
	require.NoError(t, err)
	require.Equal(t, "hello", readLine(t, c.Stdout))
	require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: patience, TermGrace: patience}))
	require.Equal(t, Exit{Code: 0}, c.Exit())
	requireGone(t, c.PID())
	require.ErrorIs(t, c.Signal(syscall.SIGTERM), os.ErrProcessDone)
}

func TestStop_SendsSIGTERMNext(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "polite"))
	require.Equal(t, "ready", readLine(t, c.Stdout))
	require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: time.Millisecond, TermGrace: patience}))
	require.Equal(t, Exit{Code: 3}, c.Exit())
}

func TestStop_SIGTERMWakesAStoppedChild(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "polite"))
	require.Equal(t, "ready", readLine(t, c.Stdout))
	require.NoError(t, c.Signal(syscall.SIGSTOP))
	require.NoError(t, c.Stop(context.Background(), Ladder{TermGrace: patience}))
	require.Equal(t, Exit{Code: 3}, c.Exit())
}

func TestStop_KillsAtLast(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "deaf"))
	require.Equal(t, "ready", readLine(t, c.Stdout))
	require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: time.Millisecond,
		TermGrace: 20 * time.Millisecond}))
	require.Equal(t, syscall.SIGKILL, c.Exit().Signal)
	requireGone(t, c.PID())
}

func TestStop_GoesStraightToTheKillWhenItsContextIsDone(t *testing.T) {
	b := newBench(t)
	c := b.start(Spec{Path: "/bin/sleep", Args: []string{"1000"}, Workspace: b.workspace("w")})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, c.Stop(ctx, Ladder{CloseGrace: time.Hour, TermGrace: time.Hour}))
	require.Equal(t, syscall.SIGKILL, c.Exit().Signal)
}

func TestStop_TheLeastPatientOfManyCallersDecidesForAll(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "deaf"))
	var callers sync.WaitGroup
	for i := range 10 {
		callers.Go(func() {
			ladder := Ladder{CloseGrace: time.Hour, TermGrace: time.Hour}
			if i == 9 {
				ladder = Ladder{}
			}
			if err := c.Stop(context.Background(), ladder); err != nil {
				t.Error(err)
			}
			if _, err := look(c.PID()); err == nil {
				t.Error("a caller returned before the child was gone")
			}
		})
	}
	callers.Wait()
}

func TestStop_FreesAWriterThatHangs(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "deaf"))
	wrote := make(chan error)
	go func() {
		_, err := c.Stdin.Write(make([]byte, 1<<20))
		wrote <- err
	}()
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	require.Error(t, <-wrote)
}

func TestLauncher_StartsOneChildAWorkspace(t *testing.T) {
	b := newBench(t)
	w := b.workspace("w")
	c := b.start(helper(w, "deaf"))
	_, err := b.Start(context.Background(), helper(w, "cat"))
	require.ErrorIs(t, err, ErrWorkspaceBusy)
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	b.start(helper(w, "cat"))
}

func TestLauncher_RefusesWhatItCouldNotAnswerFor(t *testing.T) {
	b := newBench(t)
	for _, spec := range []Spec{
		{Path: "sh", Workspace: b.workspace("w")},
		{Path: "/bin/sh", Workspace: b.root},
		{Path: "/bin/sh", Workspace: b.root + "/../w"},
		{Path: "/bin/sh", Workspace: b.root + "x/w"},
		{Path: "/bin/sh", Workspace: "w"},
	} {
		_, err := b.Start(context.Background(), spec)
		require.Error(t, err, "%+v", spec)
	}
	_, err := New(Options{Root: "relative"})
	require.Error(t, err)
}

func TestLauncher_AFailedStartLeavesNothing(t *testing.T) {
	b := newBench(t)
	w := b.workspace("w")
	before := openPipes(t)
	for range 20 {
		_, err := b.Start(context.Background(), Spec{Path: "/no/such/program", Workspace: w})
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	require.Equal(t, before, openPipes(t))
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("enough"))
	_, err := b.Start(ctx, helper(w, "cat"))
	require.ErrorContains(t, err, "enough")
}

// openPipes counts this process' pipes. The watch opens and closes other files all the time.
func openPipes(t *testing.T) int {
	links, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	n := 0
	for _, link := range links {
		if target, _ := os.Readlink(link); strings.HasPrefix(target, "pipe:") {
			n++
		}
	}
	return n
}

func TestLauncher_CloseKillsItsChildrenAndTakesNoMore(t *testing.T) {
	b := newBench(t)
	other := newBench(t)
	alive := other.start(helper(other.workspace("w"), "cat"))
	var gone []int
	for i := range 3 {
		gone = append(gone, b.start(helper(b.workspace(fmt.Sprint(i)), "deaf")).PID())
	}
	var callers sync.WaitGroup
	for range 3 {
		callers.Go(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if _, err := look(gone[0]); err == nil {
				t.Error("a caller returned before the children were gone")
			}
		})
	}
	callers.Wait()
	requireGone(t, gone...)
	_, err := b.Start(context.Background(), helper(b.workspace("w"), "cat"))
	require.ErrorIs(t, err, ErrClosed)

	_, err = io.WriteString(alive.Stdin, "still here\n")
	require.NoError(t, err)
	require.Equal(t, "still here", readLine(t, alive.Stdout), "another Launcher's child")
}

func TestLauncher_FiftyChildrenComeAndGoWithoutALeak(t *testing.T) {
	b := newBench(t)
	first := b.start(Spec{Path: "/bin/cat", Workspace: b.workspace("first")}) // opens what stays open
	require.NoError(t, first.Stop(context.Background(), Ladder{CloseGrace: patience}))
	first.Stdout.Close()
	before := openPipes(t)
	var users sync.WaitGroup
	for i := range 50 {
		w := b.workspace(fmt.Sprint(i))
		text := `(setsid sleep 1000 &); sleep 1000 & cat`
		spec := script(w, text)
		users.Go(func() {
			c, err := b.Start(context.Background(), spec)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Stdout.Close()
			buf := make([]byte, 6)
			_, err = io.WriteString(c.Stdin, "hello\n")
			if _, readErr := io.ReadFull(c.Stdout, buf); err != nil || readErr != nil {
				t.Error(err, readErr)
			}
			ladder := Ladder{CloseGrace: patience}
			if i%2 == 0 {
				ladder = Ladder{}
			}
			if err := c.Stop(context.Background(), ladder); err != nil {
				t.Error(err)
			}
		})
	}
	users.Wait()
	require.Empty(t, marked(t, b.root))
	require.Equal(t, before, openPipes(t))
	require.NotContains(t, b.logs.String(), "level=WARN")
	require.NotContains(t, b.logs.String(), "level=ERROR")
}

func TestUsage_CountsAllThatAChildStarted(t *testing.T) {
	b := newBench(t)
	w := b.workspace("w")
	// Held in memory by three shells: in the group, in a session, and by an orphan.
	hold := filepath.Join(w, "hold")
	require.NoError(t, os.WriteFile(hold, []byte(`x=$(head -c 8000000 /dev/zero | tr '\0' x); echo $$ >> $1; sleep `+
		`1000; echo $x`), 0o700))
	c := b.script(`sh ` + hold + ` $1 & setsid sh ` + hold + ` $1 & (setsid sh ` + hold + ` $1 &) ; sleep 1000`)
	pids(t, w, 3)
	require.Eventually(t, func() bool {
		u, err := c.Usage()
		require.NoError(t, err)
		return u.Processes == 8 && u.Memory > 24_000_000 && u.Memory < 100_000_000
	}, patience, 10*time.Millisecond)

	other := b.start(helper(b.workspace("other"), "cat"))
	u, err := other.Usage()
	require.NoError(t, err)
	require.Equal(t, 1, u.Processes)
	both, err := UsageOf(other, c)
	require.NoError(t, err)
	require.Equal(t, []int{1, 8}, []int{both[0].Processes, both[1].Processes})

	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	u, err = c.Usage()
	require.NoError(t, err)
	require.Zero(t, u.Memory+int64(u.Files+u.Processes))
}
