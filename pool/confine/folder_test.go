package confine

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func lockFolder(t *testing.T, root string) *Folder {
	f, err := LockFolder(root, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return f
}

func TestFolder_IsOnesOwnAndGoesWithItsOwner(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "workspaces")
	one, two := lockFolder(t, root), lockFolder(t, root)
	require.NotEqual(t, one.Path(), two.Path())
	for _, path := range []string{root, one.Path(), two.Path()} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o711), info.Mode().Perm(), path)
	}
	require.NoError(t, one.Close())
	require.NoDirExists(t, one.Path())
	require.DirExists(t, two.Path())
	require.NoError(t, two.Close())
}

func TestLockFolder_RemovesFoldersOfTheDeadAndNothingElse(t *testing.T) {
	root := t.TempDir()
	alive, dead := lockFolder(t, root), lockFolder(t, root)
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(dead.Path(), "link")))
	require.NoError(t, os.Symlink(outside, filepath.Join(root, folderPrefix+"link")))
	require.NoError(t, os.Mkdir(filepath.Join(root, "other"), 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(root, folderPrefix+"unlocked"), 0o700))
	require.NoError(t, dead.lock.Close()) // as the kernel does for a dead process

	own := lockFolder(t, root)
	require.NoDirExists(t, dead.Path())
	require.NoDirExists(t, filepath.Join(root, folderPrefix+"unlocked"))
	require.FileExists(t, filepath.Join(outside, "precious"))
	require.DirExists(t, filepath.Join(root, "other"))
	require.DirExists(t, alive.Path())
	require.NoError(t, own.Close())
	require.NoError(t, alive.Close())
}

func TestLockFolder_RefusesAFolderThatOthersUse(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	require.NoError(t, os.Chmod(root, 0o777|os.ModeSticky))
	_, err := LockFolder(root, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "has to be a folder of its own")
	info, err := os.Stat(root)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o777), info.Mode().Perm())
}

func TestLockFolder_PathIsFreeOfLinks(t *testing.T) {
	root := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(root, link))
	f := lockFolder(t, link)
	require.Equal(t, root, filepath.Dir(f.Path()))
	require.NoError(t, f.Close())
}

func TestLockFolder_ManyAtOnceNeverTakeALivingOneForDead(t *testing.T) {
	root := t.TempDir()
	var starts sync.WaitGroup
	folders := make([]*Folder, 20)
	for i := range folders {
		starts.Go(func() {
			f, err := LockFolder(root, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Error(err)
				return
			}
			folders[i] = f
		})
	}
	starts.Wait()
	for _, f := range folders {
		require.NotNil(t, f)
		require.DirExists(t, f.Path())
		require.NoError(t, f.Close())
	}
}

// The instance dies by SIGKILL. Its child dies with it; what the child had started waits for the next start.
func TestLockFolder_EndsWhatTheChildrenOfADeadInstanceLeft(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	const text = `setsid sh -c 'echo $$ >> $0; env -i sleep 1000' $1 & trap '' TERM; echo started; while :; do sleep ` +
		`1; done`
	service, out := startOutside(t, "instance", root, text)
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	left := pids(t, onlyFolder(t, root)+"/w", 1)
	living := lockFolder(t, root)
	_, err = look(child)
	require.NoError(t, err, "another's start doesn't touch it")

	require.NoError(t, service.Process.Signal(unix.SIGKILL))
	require.Error(t, service.Wait())
	requireEnds(t, child)
	_, err = look(left[0])
	require.NoError(t, err, "the test shows nothing unless something is left")

	own := lockFolder(t, root)
	requireEnds(t, left...)
	require.Empty(t, marked(t, root))
	require.NoError(t, own.Close())
	require.NoError(t, living.Close())
	_, _ = io.Copy(io.Discard, out)
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	require.Len(t, entries, 1, "the root's lock alone")
}

func onlyFolder(t *testing.T, root string) string {
	found, err := filepath.Glob(filepath.Join(root, folderPrefix+"*"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

func TestSweep_SparesWorkspacesThatAreNotDead(t *testing.T) {
	b := newBench(t)
	one, two := b.start(helper(b.workspace("one"), "deaf")), b.start(helper(b.workspace("two"), "cat"))
	n, err := Sweep(b.root, func(w string) bool { return w == b.workspace("one") })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	requireDone(t, one)
	_, err = io.WriteString(two.Stdin, "here\n")
	require.NoError(t, err)
	require.Equal(t, "here", readLine(t, two.Stdout))
}
