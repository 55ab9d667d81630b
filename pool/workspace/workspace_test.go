package workspace

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"claudepool/pool/claude"
	"claudepool/pool/confine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newLauncher returns one that makes workspaces in a folder of the test's own.
func newLauncher(t *testing.T) (launcher *confine.Launcher, root string) {
	t.Helper()
	root = t.TempDir()
	launcher, err := confine.New(confine.Options{Root: root, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, launcher.Close()) })
	return launcher, root
}

// newFolder returns a folder with so many files of no content.
func newFolder(t *testing.T, launcher *confine.Launcher, files int) *Folder {
	t.Helper()
	f, err := New(launcher)
	require.NoError(t, err)
	for i := range files {
		require.NoError(t, os.WriteFile(filepath.Join(f.Cwd, strconv.Itoa(i)), nil, 0o600))
	}
	return f
}

func TestFolder_IsNobodyElsesAndGoesWithAllThatIsInIt(t *testing.T) {
	launcher, root := newLauncher(t)
	f, other := newFolder(t, launcher, 3), newFolder(t, launcher, 0)
	require.NotEqual(t, f.Root, other.Root)
	require.Equal(t, root, filepath.Dir(f.Root))
	for _, path := range []string{f.Root, f.Home, f.Temp, f.Cwd} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.ModeDir|0o700, info.Mode())
	}
	require.NoError(t, f.Remove())
	require.NoDirExists(t, f.Root)
	require.DirExists(t, other.Root)
}

func TestFolder_ATranscriptIsWhereTheCLILooksForIt(t *testing.T) {
	launcher, _ := newLauncher(t)
	f := newFolder(t, launcher, 0)
	history := []claude.HistoryMessage{{Role: "user", Content: []byte(`"one"`)}}
	require.NoError(t, f.WithTranscript("a-session", func(transcript claude.Transcript) error {
		require.False(t, transcript.Exists())
		_, err := transcript.Write(history, time.Now())
		return err
	}))
	require.FileExists(t, claude.TranscriptPath(f.Home, f.Cwd, "a-session"))

	failed := errors.New("failed")
	require.ErrorIs(t, f.WithTranscript("a-session", func(claude.Transcript) error { return failed }), failed)
	require.NoError(t, f.Remove())
	require.ErrorIs(t, f.WithTranscript("a-session", func(claude.Transcript) error { return nil }), os.ErrNotExist)
}

func TestFolder_NoLinkLeadsATranscriptOutOfIt(t *testing.T) {
	launcher, _ := newLauncher(t)
	f := newFolder(t, launcher, 0)
	outside := t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(f.Home, ".claude")))
	require.Error(t, f.WithTranscript("a-session", func(transcript claude.Transcript) error {
		_, err := transcript.Write(nil, time.Now())
		return err
	}))
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// A session id may be used again before the files of what had it are gone.
func TestIndex_PointsToWhatHasTheSessionNow(t *testing.T) {
	launcher, root := newLauncher(t)
	before, now := newFolder(t, launcher, 0), newFolder(t, launcher, 0)
	index := NewIndex(root)
	link := filepath.Join(root, "ada", "a-session")
	require.NoError(t, index.Link("ada", "a-session", before))
	require.NoError(t, index.Link("ada", "a-session", now))
	leadsTo, err := filepath.EvalSymlinks(link)
	require.NoError(t, err)
	require.Equal(t, now.Root, leadsTo)

	require.NoError(t, index.Unlink("ada", "a-session", before))
	leadsTo, err = filepath.EvalSymlinks(link)
	require.NoError(t, err)
	require.Equal(t, now.Root, leadsTo, "it isn't of what had the id before")

	require.NoError(t, index.Unlink("ada", "a-session", now))
	require.NoError(t, index.Unlink("ada", "a-session", now), "twice")
	require.NoDirExists(t, filepath.Join(root, "ada"))
}

func TestIndex_AUserIsThereAsLongAsASessionIs(t *testing.T) {
	launcher, root := newLauncher(t)
	f := newFolder(t, launcher, 0)
	index := NewIndex(root)
	require.NoError(t, index.Link("ada", "first", f))
	require.NoError(t, index.Link("ada", "second", f))
	require.NoError(t, index.Unlink("ada", "first", f))
	entries, err := os.ReadDir(filepath.Join(root, "ada"))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, "second", entries[0].Name())
}

func TestDisk_ATenthIsToStayFree(t *testing.T) {
	disk := Disk{Total: Space{Bytes: 1000, Files: 100}, Free: Space{Bytes: 60, Files: 50}}
	require.Equal(t, Space{Bytes: 40}, disk.Missing())
	disk.Free.Bytes = 100
	require.Zero(t, disk.Missing())

	real, err := DiskOf(t.TempDir())
	require.NoError(t, err)
	require.Positive(t, real.Total.Bytes)
	require.True(t, real.Free.Within(real.Total))
}

func TestGrowth_IsCountedFromTheLeastThatWasInUse(t *testing.T) {
	const most = 10
	var g Growth
	for i, step := range []struct {
		used    int64
		exceeds bool
	}{
		{500, true}, // for the first time
		{500 + most, false},
		{500 + most + 1, true},
		{500 + most + 1, false},
		{100, false}, // others have removed something
		{100 + most, false},
		{100 + most + 1, true},
	} {
		total := Space{Bytes: 1000, Files: 1000}
		disk := Disk{Total: total, Free: Space{Bytes: total.Bytes - step.used, Files: total.Files}}
		require.Equal(t, step.exceeds, g.Exceeds(Space{Bytes: most}, disk), "step %d", i)
	}
	require.True(t, g.Exceeds(Space{Bytes: most}, Disk{}), "a disk that doesn't count files")
}

func TestMeter_CountsAllOfAnOwnersFolders(t *testing.T) {
	launcher, _ := newLauncher(t)
	first, second := newFolder(t, launcher, 10), newFolder(t, launcher, 5)
	require.NoError(t, os.WriteFile(filepath.Join(second.Home, "large"), make([]byte, 1<<20), 0o600))
	m := NewMeter[string](time.Minute, 1000)
	defer m.Close()
	m.Add("ada", []*Folder{first, second})
	m.Add("bob", nil)
	require.True(t, m.IsDue("ada"))
	totals := make(map[string]Total)
	m.Run(time.Minute, func(owner string, total Total) { totals[owner] = total })
	require.Len(t, totals, 2)
	require.EqualValues(t, 10+5+1+2*4, totals["ada"].Files, "with the folders")
	require.GreaterOrEqual(t, totals["ada"].Bytes, int64(1<<20))
	require.False(t, totals["ada"].TooDeep)
	require.Zero(t, totals["bob"])
	require.False(t, m.IsDue("ada"))
	m.Run(time.Minute, func(owner string, _ Total) { require.Fail(t, "measured again", owner) })
}

// More owners than are measured side by side, each a step at a time.
func TestMeter_AFolderThatTakesLongDelaysNoOther(t *testing.T) {
	launcher, _ := newLauncher(t)
	m := NewMeter[string](0, 1000)
	defer m.Close()
	const owners = 2 * maxUnderway
	for i := range owners {
		m.Add(fmt.Sprint(i), []*Folder{newFolder(t, launcher, 5*i)})
	}
	var order []string
	m.Run(time.Minute, func(owner string, total Total) {
		var i int64
		_, err := fmt.Sscan(owner, &i)
		require.NoError(t, err)
		require.Equal(t, 5*i+4, total.Files)
		order = append(order, owner)
	})
	require.Len(t, order, owners)
}

func TestMeter_TheNextRunGoesOnWhereTheLastHadNoTime(t *testing.T) {
	launcher, _ := newLauncher(t)
	m := NewMeter[string](0, 1000)
	defer m.Close()
	m.Add("ada", []*Folder{newFolder(t, launcher, 100)})
	runs, measured := 0, false
	for ; !measured; runs++ {
		require.True(t, m.IsDue("ada"))
		m.Run(0, func(_ string, total Total) {
			measured = true
			require.EqualValues(t, 104, total.Files)
		})
	}
	require.Greater(t, runs, 100, "one step each")
}

func TestMeter_WhatIsTooMuchIsNotCountedToItsEnd(t *testing.T) {
	launcher, _ := newLauncher(t)
	many, deep := newFolder(t, launcher, 100), newFolder(t, launcher, 0)
	path := deep.Cwd
	for range confine.MaxDepth {
		path = filepath.Join(path, "d")
	}
	require.NoError(t, os.MkdirAll(path, 0o700))
	m := NewMeter[string](time.Minute, 50)
	defer m.Close()
	m.Add("many", []*Folder{many})
	m.Run(time.Minute, func(_ string, total Total) { require.EqualValues(t, 51, total.Files) })
	m = NewMeter[string](time.Minute, 1000)
	m.Add("deep", []*Folder{deep})
	m.Run(time.Minute, func(_ string, total Total) { require.True(t, total.TooDeep) })
}

func TestMeter_HoldsNothingOpenOnceClosed(t *testing.T) {
	launcher, _ := newLauncher(t)
	m := NewMeter[string](0, 1000)
	before := openFiles(t)
	for i := range 2 * maxUnderway {
		m.Add(fmt.Sprint(i), []*Folder{newFolder(t, launcher, 10)})
	}
	m.Run(0, func(string, Total) {})
	require.Equal(t, before+maxUnderway, openFiles(t))
	m.Close()
	require.Equal(t, before, openFiles(t))
}

func openFiles(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(open)
}
