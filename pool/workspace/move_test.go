package workspace

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
	"claudepool/pool/confine"
)

// newMover returns a launcher whose folders have uids of their own.
func newMover(t *testing.T) *confine.Launcher {
	t.Helper()
	need.Root(t)
	uids, err := confine.LockUIDs(2_100_000_000, 10, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, uids.Close()) })
	launcher, err := confine.New(confine.Options{Root: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		Confinement: &confine.Confinement{UIDs: uids}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, launcher.Close()) })
	return launcher
}

// put makes a file that belongs to the folder's uid.
func put(t *testing.T, f *Folder, name, text string) {
	t.Helper()
	path := filepath.Join(f.Root, name)
	owner := f.launcher.Owner(f.Root)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	for ; path != f.Root; path = filepath.Dir(path) {
		require.NoError(t, os.Lchown(path, owner, owner))
	}
}

// requireHas checks what is in a file, and that it belongs to the folder's uid.
func requireHas(t *testing.T, f *Folder, name, text string) {
	t.Helper()
	path := filepath.Join(f.Root, name)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, text, string(got))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, f.launcher.Owner(f.Root), info.Sys().(*syscall.Stat_t).Uid)
}

func TestMove_TakesAllAlong(t *testing.T) {
	launcher := newMover(t)
	from, to := newFolder(t, launcher, 0), newFolder(t, launcher, 0)
	put(t, from, "work/deep/file", "work")
	put(t, from, "work/.git/HEAD", "a repository's")
	require.NoError(t, os.Link(filepath.Join(from.Root, "work/.git/HEAD"), filepath.Join(from.Root, "work/second name")))
	put(t, from, "home/.claude/projects/p/s.jsonl", "home")
	put(t, from, "tmp/file", "tmp")
	require.NoError(t, to.MakeRepository())
	put(t, to, "home/.claude/mine", "of the process's start")
	require.True(t, from.IsRepository())
	require.True(t, to.IsRepository())
	require.NoError(t, from.CheckMovable())

	inside, err := os.Stat(filepath.Join(to.Root, "work"))
	require.NoError(t, err)
	require.NoError(t, from.MoveTo(to))
	after, err := os.Stat(filepath.Join(to.Root, "work"))
	require.NoError(t, err)
	require.True(t, os.SameFile(inside, after), "a process works there")
	requireHas(t, to, "work/deep/file", "work")
	requireHas(t, to, "work/.git/HEAD", "a repository's")
	requireHas(t, to, "work/second name", "a repository's")
	requireHas(t, to, "home/.claude/projects/p/s.jsonl", "home")
	requireHas(t, to, "tmp/file", "tmp")
	require.NoFileExists(t, filepath.Join(to.Root, "home/.claude/mine"))
	require.NoError(t, from.Remove())
	requireHas(t, to, "work/deep/file", "work")
}

func TestMove_ThatFailsLeavesAllWhereItWas(t *testing.T) {
	launcher := newMover(t)
	for _, broken := range []string{"home", "work", "tmp"} {
		t.Run(broken, func(t *testing.T) {
			from, to := newFolder(t, launcher, 0), newFolder(t, launcher, 0)
			put(t, from, "work/a", "a")
			put(t, from, "work/.git/HEAD", "b")
			put(t, from, "home/c", "c")
			put(t, from, "tmp/d", "d")
			require.NoError(t, to.MakeRepository())
			require.NoError(t, os.RemoveAll(filepath.Join(to.Root, broken)))
			require.Error(t, from.MoveTo(to))
			requireHas(t, from, "work/a", "a")
			requireHas(t, from, "work/.git/HEAD", "b")
			requireHas(t, from, "home/c", "c")
			requireHas(t, from, "tmp/d", "d")
			require.NoError(t, from.Remove())
			require.NoError(t, to.Remove())
		})
	}
}

func TestMove_NotWhatACLIHasToReadAtItsStart(t *testing.T) {
	launcher := newMover(t)
	for _, name := range []string{"work/.mcp.json", "home/.claude/settings.json", "work/.claude/settings.local.json"} {
		f := newFolder(t, launcher, 0)
		require.NoError(t, f.CheckMovable())
		put(t, f, name, "{}")
		require.ErrorIs(t, f.CheckMovable(), ErrUnmovable)
		require.NoError(t, f.Remove())
	}
}

func TestMove_NotMoreThanSoManyFiles(t *testing.T) {
	launcher := newMover(t)
	f, to := newFolder(t, launcher, 0), newFolder(t, launcher, 0)
	for i := range MaxMoved {
		put(t, f, filepath.Join("work", strconv.Itoa(i)), "")
	}
	require.ErrorIs(t, f.CheckMovable(), confine.ErrTooMany)
	require.ErrorIs(t, f.MoveTo(to), confine.ErrTooMany)
	requireHas(t, f, "work/0", "")
	requireHas(t, f, "work/"+strconv.Itoa(MaxMoved-1), "")
}

// A folder's parts are its processes' own: they may put what they like in their places.
func TestMove_OnlyOfAFolderThatHasItsPartsAndNothingElse(t *testing.T) {
	launcher := newMover(t)
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o600))
	link := func(path string) error { // of the process's own
		var stat syscall.Stat_t
		err := syscall.Stat(filepath.Dir(path), &stat)
		return errors.Join(err, os.RemoveAll(path), os.Symlink(outside, path),
			os.Lchown(path, int(stat.Uid), int(stat.Gid)))
	}
	for name, spoil := range map[string]func(root string) error{
		"a link for work":    func(root string) error { return link(filepath.Join(root, "work")) },
		"a link for tmp":     func(root string) error { return link(filepath.Join(root, "tmp")) },
		"a link for .claude": func(root string) error { return link(filepath.Join(root, "home/.claude")) },
		"a file for home": func(root string) error {
			home := filepath.Join(root, "home")
			return errors.Join(os.RemoveAll(home), os.WriteFile(home, nil, 0o600))
		},
		"no tmp":          func(root string) error { return os.RemoveAll(filepath.Join(root, "tmp")) },
		"one folder more": func(root string) error { return os.Mkdir(filepath.Join(root, "more"), 0o700) },
		"a second name": func(root string) error {
			return os.Link(filepath.Join(outside, "file"), filepath.Join(root, "work/x"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, to := newFolder(t, launcher, 0), newFolder(t, launcher, 0)
			put(t, f, "work/kept", "kept")
			require.NoError(t, f.CheckMovable())
			require.NoError(t, spoil(f.Root))
			err := f.CheckMovable()
			require.True(t, errors.Is(err, ErrUnmovable) || errors.Is(err, confine.ErrForeign), err)
			_ = f.MoveTo(to) // as if nobody had asked
			text, err := os.ReadFile(filepath.Join(outside, "file"))
			require.NoError(t, err)
			require.Equal(t, "outside", string(text))
			info, err := os.Stat(filepath.Join(outside, "file"))
			require.NoError(t, err)
			require.Zero(t, info.Sys().(*syscall.Stat_t).Uid)
			require.NoError(t, f.Remove())
			require.NoError(t, to.Remove())
		})
	}
}
