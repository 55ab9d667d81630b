package claude_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/claude"
)

// newGate makes a gate, and the transcript of a session that is to go through it.
func newGate(t *testing.T, text string) (*claude.Gate, claude.Transcript) {
	t.Helper()
	files, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { _ = files.Close() })
	transcript := claude.Transcript{Files: files, Home: "home", Cwd: "/w", SessionID: "spare", Owner: -1}
	g, err := transcript.NewGate(filepath.Join(transcript.Files.Name(), transcript.Home))
	require.NoError(t, err)
	transcript.SessionID = "session"
	t.Cleanup(func() { _ = g.Remove(transcript) })
	require.NoError(t, transcript.Restore([]byte(text)))
	return g, transcript
}

// names are the files beside the gate.
func names(t *testing.T, g *claude.Gate) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(g.Path()))
	require.NoError(t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// reading is what somebody at the gate has read, as the CLI does.
type reading struct {
	text string
	then fs.FileMode // of what stood at the gate's name when the first byte was there
	err  error
}

// read opens the gate and reads, as the CLI does.
func read(path string) (r reading) {
	f, err := os.Open(path)
	if err != nil {
		return reading{err: err}
	}
	defer f.Close()
	first := make([]byte, 1)
	if _, r.err = io.ReadFull(f, first); r.err != nil {
		return r
	}
	info, err := os.Lstat(path)
	if err == nil {
		r.then = info.Mode()
	}
	rest, err := io.ReadAll(f)
	r.text, r.err = string(first)+string(rest), err
	return r
}

// wait has a reader come to the gate.
func wait(g *claude.Gate) <-chan reading {
	done := make(chan reading, 1)
	go func() { done <- read(g.Path()) }()
	return done
}

// got is what the reader got in the end.
func got(t *testing.T, done <-chan reading) (r reading) {
	t.Helper()
	select {
	case r = <-done:
	case <-time.After(10 * time.Second):
		require.Fail(t, "it is at the gate yet")
	}
	return r
}

func TestGate_ItIsAFIFOForItsOwnerToReadAlone(t *testing.T) {
	g, _ := newGate(t, "x\n")
	info, err := os.Lstat(g.Path())
	require.NoError(t, err)
	require.Equal(t, fs.ModeNamedPipe|0o400, info.Mode())
	require.Equal(t, ".jsonl", filepath.Ext(g.Path()))
	require.Len(t, names(t, g), 2)
}

// What the CLI reads a second time is a file, and the one that the session goes on with.
func TestGate_TheTranscriptIsAtTheNameBeforeAByteIsRead(t *testing.T) {
	for range 20 {
		g, transcript := newGate(t, "one\ntwo\n")
		done := wait(g)
		require.NoError(t, g.Open(t.Context(), transcript, 100))
		r := got(t, done)
		require.NoError(t, r.err)
		require.Equal(t, "one\ntwo\n", r.text)
		require.True(t, r.then.IsRegular(), r.then)
		at, err := os.Stat(g.Path())
		require.NoError(t, err)
		own, err := os.Stat(filepath.Join(filepath.Dir(g.Path()), "session.jsonl"))
		require.NoError(t, err)
		require.True(t, os.SameFile(own, at))
		require.Len(t, names(t, g), 2)
		require.NoError(t, g.Remove(transcript))
		require.Equal(t, []string{"session.jsonl"}, names(t, g))
	}
}

func TestGate_TheNameIsTheFIFOsUntilSomebodyHasCome(t *testing.T) {
	g, transcript := newGate(t, "one\n")
	opened := make(chan error, 1)
	go func() { opened <- g.Open(t.Context(), transcript, 100) }()
	time.Sleep(50 * time.Millisecond)
	info, err := os.Lstat(g.Path())
	require.NoError(t, err)
	require.Equal(t, fs.ModeNamedPipe, info.Mode().Type())
	require.Equal(t, "one\n", got(t, wait(g)).text)
	require.NoError(t, <-opened)
}

func TestGate_MoreThanAPipeHoldsGoesThrough(t *testing.T) {
	text := strings.Repeat(strings.Repeat("x", 1023)+"\n", 3<<10)
	g, transcript := newGate(t, text)
	done := wait(g)
	require.NoError(t, g.Open(t.Context(), transcript, int64(len(text))))
	require.True(t, text == got(t, done).text)
}

func TestGate_OnlyWholeLinesGoThrough(t *testing.T) {
	g, transcript := newGate(t, "one\nhalf")
	done := wait(g)
	require.NoError(t, g.Open(t.Context(), transcript, 100))
	require.Equal(t, "one\n", got(t, done).text)
}

func TestGate_ATranscriptThatIsTooLargeTouchesNothing(t *testing.T) {
	g, transcript := newGate(t, "one\ntwo\n")
	done := wait(g)
	awaitReader(t)
	require.ErrorIs(t, g.Open(t.Context(), transcript, 7), claude.ErrTooLarge)
	requireWaits(t, done)
	require.Len(t, names(t, g), 2)
	require.NoError(t, g.Open(t.Context(), transcript, 8), "it may be opened yet")
	require.Equal(t, "one\ntwo\n", got(t, done).text)
}

func TestGate_WithoutATranscriptItStaysShut(t *testing.T) {
	g, transcript := newGate(t, "one\n")
	require.NoError(t, transcript.Remove())
	done := wait(g)
	awaitReader(t)
	require.ErrorIs(t, g.Open(t.Context(), transcript, 100), fs.ErrNotExist)
	requireWaits(t, done)
	release(t, g, done)
}

// requireWaits requires that who is at the gate stays there.
func requireWaits(t *testing.T, done <-chan reading) {
	t.Helper()
	select {
	case r := <-done:
		require.Fail(t, "it read", "%+v", r)
	case <-time.After(50 * time.Millisecond):
	}
}

// release lets a reader at the gate go that wasn't let through.
func release(t *testing.T, g *claude.Gate, done <-chan reading) {
	t.Helper()
	w, err := os.OpenFile(g.Path(), os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.ErrorIs(t, got(t, done).err, io.EOF)
}

var errGone = errors.New("gone")

func TestGate_WhoWaitsForNobodyGetsTheCause(t *testing.T) {
	g, transcript := newGate(t, "one\n")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(errGone) })
	require.ErrorIs(t, g.Open(ctx, transcript, 100), errGone)
	info, err := os.Lstat(g.Path())
	require.NoError(t, err)
	require.Equal(t, fs.ModeNamedPipe, info.Mode().Type(), "nobody came")
}

func TestGate_WhoDoesNotComeSoonHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, transcript := newGate(t, "one\n")
		began := time.Now()
		require.ErrorIs(t, g.Open(t.Context(), transcript, 100), claude.ErrGate)
		require.InDelta(t, 2, time.Since(began).Seconds(), 0.1)
	})
}

// full is more than a pipe holds, so that it isn't written before it is read.
var full = string(bytes.Repeat([]byte("x\n"), 1<<20))

func TestGate_WhoLeavesWithoutReadingHasLeft(t *testing.T) {
	g, transcript := newGate(t, full)
	left := make(chan error, 1)
	go func() {
		f, err := os.Open(g.Path())
		if err == nil {
			_, _ = io.ReadFull(f, make([]byte, 10))
			err = f.Close()
		}
		left <- err
	}()
	require.ErrorIs(t, g.Open(t.Context(), transcript, 4<<20), claude.ErrGate)
	require.NoError(t, <-left)
}

func TestGate_WhoStopsReadingIsWaitedForUntilTheCause(t *testing.T) {
	g, transcript := newGate(t, full)
	ctx, cancel := context.WithCancelCause(t.Context())
	opened := make(chan *os.File, 1)
	go func() {
		f, err := os.Open(g.Path())
		if err == nil {
			_, _ = io.ReadFull(f, make([]byte, 10))
		}
		opened <- f
		cancel(errGone)
	}()
	require.ErrorIs(t, g.Open(ctx, transcript, 4<<20), errGone)
	require.NoError(t, (<-opened).Close())
}
