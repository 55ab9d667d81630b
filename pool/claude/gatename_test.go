package claude_test

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/pool/confine"
)

// Whatever stands at the gate's name by then is none of its business: the descriptor is the FIFO's.
func TestGate_WhatWasPutAtItsNameIsNeitherOpenedNorWrittenTo(t *testing.T) {
	const theirs = "theirs\n"
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, []byte(theirs), 0o600))
	for name, put := range map[string]func(path string) error{
		"a link to outside":     func(path string) error { return os.Symlink(outside, path) },
		"a second name":         func(path string) error { return os.Link(outside, path) },
		"another FIFO":          func(path string) error { return unix.Mkfifo(path, 0o600) },
		"an empty folder":       func(path string) error { return os.Mkdir(path, 0o700) },
		"a folder with a file":  func(path string) error { return os.MkdirAll(filepath.Join(path, "file"), 0o700) },
		"a file":                func(path string) error { return os.WriteFile(path, []byte(theirs), 0o600) },
		"nothing":               func(string) error { return nil },
		"a link to a folder":    func(path string) error { return os.Symlink(filepath.Dir(outside), path) },
		"a link to what is not": func(path string) error { return os.Symlink(outside+"not", path) },
	} {
		t.Run(name, func(t *testing.T) {
			g, transcript := newGate(t, "one\n")
			done := wait(g)
			awaitReader(t)
			require.NoError(t, os.Remove(g.Path()))
			require.NoError(t, put(g.Path()))
			other := watch(t, g.Path())
			err := g.Open(t.Context(), transcript, 100)
			if strings.Contains(name, "folder") && !strings.Contains(name, "link") {
				require.Error(t, err)
				require.ErrorIs(t, got(t, done).err, io.EOF, "it gets nothing")
			} else {
				require.NoError(t, err)
				require.Equal(t, "one\n", got(t, done).text, "who waited is who is served")
			}
			other()
			kept, err := os.ReadFile(outside)
			require.NoError(t, err)
			require.Equal(t, theirs, string(kept))
			require.NotContains(t, strings.Join(names(t, g), " "), ".next")
			require.NoFileExists(t, outside+"not")
			_ = g.Remove(transcript)
		})
	}
}

// awaitReader waits until somebody is at the gate, without letting him through.
func awaitReader(t *testing.T) {
	t.Helper()
	o := confine.NewOpening(os.Getpid())
	require.Eventually(t, func() bool {
		waits, err := o.Waits()
		require.NoError(t, err)
		return waits
	}, patience, time.Millisecond)
}

// watch waits at what is at the path if that is a FIFO; the function returned requires that nobody has come.
func watch(t *testing.T, path string) (requireNobody func()) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		return func() {}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	return func() {
		n, err := f.Read(make([]byte, 1))
		require.Zero(t, n)
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, f.Close())
	}
}

// The way to the transcripts is anybody's to change who runs in the workspace.
func TestGate_ALinkOnTheWayLeadsNobodyOut(t *testing.T) {
	g, transcript := newGate(t, "one\n")
	outside := t.TempDir()
	projects := filepath.Dir(filepath.Dir(g.Path()))
	slug := filepath.Base(filepath.Dir(g.Path()))
	require.NoError(t, os.Mkdir(filepath.Join(outside, slug), 0o700))
	theirs := filepath.Join(outside, slug, "session.jsonl")
	require.NoError(t, os.WriteFile(theirs, []byte("theirs\n"), 0o600))
	require.NoError(t, os.Rename(projects, projects+".old"))
	require.NoError(t, os.Symlink(outside, projects))
	require.Error(t, g.Open(t.Context(), transcript, 100))
	entries, err := os.ReadDir(filepath.Join(outside, slug))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Error(t, g.Remove(transcript))
}
