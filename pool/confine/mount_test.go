package confine

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newMounted is a bench whose children find their workspaces at the path returned.
func newMounted(t *testing.T) (b *bench, at string) {
	b = newConfined(t)
	at = filepath.Join(filepath.Dir(b.root), mountName)
	require.NoError(t, os.Mkdir(at, passable))
	t.Cleanup(func() { require.NoError(t, os.Remove(at)) })
	b.confinement.Mount = at
	return b, at
}

func TestMount_EachChildFindsItsOwnWorkspaceAtOnePath(t *testing.T) {
	b, at := newMounted(t)
	ada, bob := b.newWorkspace("work"), b.newWorkspace("work")
	require.Equal(t, at, b.Seen(ada))
	require.Equal(t, at, b.Seen(bob))
	require.Equal(t, at, b.says(ada, "pwd; echo ada > work/file"))
	require.Equal(t, at, b.says(bob, "pwd; echo bob > work/file; ln -s "+ada+"/work/file stolen"))
	require.Equal(t, "ada", b.says(ada, "cat "+at+"/work/file"))
	require.Equal(t, "bob", b.says(bob, "cat "+at+"/work/file"))
	require.Contains(t, b.says(bob, "cat stolen"), "Permission denied")
	left, err := os.ReadDir(at)
	require.NoError(t, err)
	require.Empty(t, left, "nobody else sees it")
	require.Contains(t, b.says(ada, "mount -t tmpfs none work; umount "+at+"; unshare -m true"), "not permitted")
}

func TestGiveAway_ChangesWhoseAllFilesAre(t *testing.T) {
	b := newConfined(t)
	from, to := b.newWorkspace("work"), b.newWorkspace("work")
	b.says(from, "cd work && mkdir -p a/b && touch a/b/c && ln -s /etc/passwd link && mkfifo fifo && chmod 0 a/b")
	require.NoError(t, b.GiveAway(from, to, 100))
	require.Equal(t, []int{b.Owner(to)}, owners(t, filepath.Join(from, "work")))
	require.Equal(t, []int{0}, owners(t, "/etc/passwd"), "no link is followed")
	require.ErrorIs(t, b.CheckFiles(from, 100), ErrForeign)
	require.NoError(t, b.TakeBack(from, to, 100))
	require.Equal(t, []int{b.Owner(from)}, owners(t, filepath.Join(from, "work")))
	require.ErrorIs(t, b.CheckFiles(from, 3), ErrTooMany)
	require.NoError(t, b.CheckFiles(from, 100))
}

// A file of somebody else's that has a second name in a workspace isn't given away, nor what comes before it.
func TestGiveAway_NothingOfAnybodyElses(t *testing.T) {
	b := newConfined(t)
	from, to := b.newWorkspace("work"), b.newWorkspace("work")
	b.says(from, "cd work && touch a b c d")
	outside := filepath.Join(b.root, "outside")
	require.NoError(t, os.WriteFile(outside, nil, 0o600))
	require.NoError(t, os.Link(outside, filepath.Join(from, "work", "e")))
	require.ErrorIs(t, b.GiveAway(from, to, 100), ErrForeign)
	require.Equal(t, []int{0}, owners(t, outside))
	for _, name := range []string{"a", "b", "c", "d"} {
		require.Equal(t, []int{b.Owner(from)}, owners(t, filepath.Join(from, "work", name)))
	}
}

func TestGiveAway_LeavesAllAsItWasIfThereIsTooMuch(t *testing.T) {
	b := newConfined(t)
	from, to := b.newWorkspace("work"), b.newWorkspace()
	b.says(from, "cd work && seq 50 | xargs touch && mkdir d && touch d/e")
	for most := range int64(54) { // the workspace, work, d and 51 files
		require.ErrorIs(t, b.GiveAway(from, to, most), ErrTooMany)
		require.Equal(t, []int{b.Owner(from)}, owners(t, filepath.Join(from, "work")), "%d", most)
	}
	require.NoError(t, b.GiveAway(from, to, 54))
}

func TestGiveAway_NotWhileSomethingRunsThere(t *testing.T) {
	b := newConfined(t)
	from, to := b.newWorkspace("work"), b.newWorkspace()
	c := b.start(shell(from, "exec sleep 60"))
	require.ErrorIs(t, b.GiveAway(from, to, 100), ErrWorkspaceBusy)
	require.NoError(t, c.Stop(t.Context(), Ladder{}))
	require.NoError(t, b.GiveAway(from, to, 100))
}

// owners are the uids of all files from a path on.
func owners(t *testing.T, path string) (all []int) {
	t.Helper()
	seen := make(map[int]bool)
	require.NoError(t, filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		require.NoError(t, err)
		var stat unix.Stat_t
		require.NoError(t, unix.Lstat(path, &stat))
		if uid := int(stat.Uid); !seen[uid] {
			seen[uid] = true
			all = append(all, uid)
		}
		return nil
	}))
	return all
}

// Giving files away is what moving a conversation takes longest for.
func BenchmarkGiveAway(b *testing.B) {
	for _, files := range []int{1, 1000, 50_000} {
		b.Run(strconv.Itoa(files), func(b *testing.B) {
			bench := newConfined(b)
			from, to := bench.newWorkspace("work"), bench.newWorkspace()
			for i := range files {
				require.NoError(b, os.WriteFile(filepath.Join(from, "work", strconv.Itoa(i)), nil, 0o600))
			}
			for b.Loop() {
				require.NoError(b, bench.GiveAway(from, to, 100_000))
			}
		})
	}
}
