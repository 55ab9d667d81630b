package confine

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// busy has a shell use enough of a processor that it is seen.
const busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; "

// untold is a kernel that doesn't tell what a process waits for.
func untold(int, ...string) (waits, known bool) { return false, false }

// waits reports whether an Opening says so within the time.
func waits(t *testing.T, o *Opening, within time.Duration) (is bool) {
	t.Helper()
	for end := time.Now().Add(within); !is && time.Now().Before(end); time.Sleep(time.Millisecond) {
		var err error
		is, err = o.Waits()
		require.NoError(t, err)
	}
	return is
}

// newFIFO makes a FIFO and a text for a child's shell, with $fifo for its path.
func newFIFO(t *testing.T, b *bench, text string) (path string, spec Spec) {
	spec = script(b.workspace("w"), text)
	path = filepath.Join(b.workspace("w"), "fifo")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	spec.Env = append(spec.Env, "fifo="+path)
	return path, spec
}

func TestOpening_AChildIsSeenWaitingUntilSomebodyWrites(t *testing.T) {
	b := newBench(t)
	path, spec := newFIFO(t, b, `exec 3< "$fifo"; echo open; read line <&3; exec cat`)
	c := b.start(spec)
	o := NewOpening(c.PID())
	require.True(t, waits(t, o, patience))
	for range 100 {
		is, err := o.Waits()
		require.NoError(t, err)
		require.True(t, is, "to look doesn't end it")
	}

	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	require.NoError(t, err, "it waited for this")
	require.Equal(t, "open", readLine(t, c.Stdout))
	require.False(t, waits(t, o, 100*time.Millisecond), "it waits for a line now, not for a partner")
	require.NoError(t, w.Close())
	require.False(t, waits(t, o, 100*time.Millisecond))
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
}

func TestOpening_WhatDoesSomethingElseIsNotSeenWaiting(t *testing.T) {
	for name, text := range map[string]string{
		"it reads its stdin": "exec cat",
		"it sleeps":          "exec sleep 1000",
		// The shell's child is another process: whose gate that is nobody knows.
		"its child waits": `sh -c 'echo $$ >> "$0"; exec cat "$fifo"' "$1"; exit`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			_, spec := newFIFO(t, b, text)
			c := b.start(spec)
			require.False(t, waits(t, NewOpening(c.PID()), 200*time.Millisecond))
			require.NoError(t, c.Stop(context.Background(), Ladder{}))
		})
	}
}

func TestOpening_WhatIsStoppedIsNotSeenWaitingUntilItGoesOn(t *testing.T) {
	for name, told := range map[string]bool{"the kernel tells": true, "it doesn't": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			_, spec := newFIFO(t, b, busy+`exec cat "$fifo"`)
			c := b.start(spec)
			o := NewOpening(c.PID())
			require.True(t, waits(t, o, patience))
			if !told {
				o.waitsIn = untold
			}
			require.NoError(t, c.Signal(unix.SIGSTOP))
			requireState(t, c.PID(), 'T')
			require.False(t, waits(t, o, restTime+200*time.Millisecond))
			require.NoError(t, c.Signal(unix.SIGCONT))
			require.True(t, waits(t, o, patience))
			require.NoError(t, c.Stop(context.Background(), Ladder{}))
		})
	}
}

func requireState(t *testing.T, pid int, state byte) {
	t.Helper()
	require.Eventually(t, func() bool {
		p, err := look(pid)
		return err == nil && p.state == state
	}, patience, time.Millisecond)
}

// Where the kernel doesn't tell, rest is all there is to see, and only after work.
func TestOpening_WhereTheKernelDoesNotTellWhatRestsIsTakenToWait(t *testing.T) {
	b := newBench(t)
	_, spec := newFIFO(t, b, busy+`exec cat "$fifo"`)
	c := b.start(spec)
	o := NewOpening(c.PID())
	o.waitsIn = untold
	began := time.Now()
	require.True(t, waits(t, o, patience))
	require.GreaterOrEqual(t, time.Since(began), restTime)
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
}

func TestOpening_WhereTheKernelDoesNotTellWhatWorksIsNotTakenToWait(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "toil"))
	requireState(t, c.PID(), 'S')
	o := NewOpening(c.PID())
	o.waitsIn = untold
	require.False(t, waits(t, o, restTime+200*time.Millisecond))
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
}

// toil works in a thread that isn't the process's first one, which sleeps.
func toil([]string) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		go toil(nil)
		time.Sleep(time.Hour)
	}
	for n := 0; ; n++ {
	}
}

func TestOpening_WhatIsGoneIsAnError(t *testing.T) {
	b := newBench(t)
	c := b.script("exit")
	requireDone(t, c)
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	_, err := NewOpening(c.PID()).Waits()
	require.Error(t, err)
}
