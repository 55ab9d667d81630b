package confine

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/testkit/need"
)

const soon = time.Minute

// nest makes so many folders in each other, with a file in the last.
func nest(t testing.TB, root string, levels int) {
	at, err := unix.Open(root, folderFlags, 0)
	require.NoError(t, err)
	for range levels {
		require.NoError(t, unix.Mkdirat(at, "d", 0o700))
		inner, err := unix.Openat(at, "d", folderFlags, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at = inner
	}
	last, err := unix.Openat(at, "last", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	require.NoError(t, err)
	require.NoError(t, unix.Close(last))
	require.NoError(t, unix.Close(at))
}

func fill(t testing.TB, dir string, files int) {
	require.NoError(t, os.MkdirAll(dir, 0o700))
	for i := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600))
	}
}

func openFiles(t testing.TB) int {
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all)
}

// taken is what everything below root takes, each file once, but for what is below a link.
func taken(t testing.TB, root string) (bytes, files int64) {
	seen := make(map[uint64]bool)
	require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		require.NoError(t, err)
		var stat unix.Stat_t
		require.NoError(t, unix.Lstat(path, &stat))
		files++
		if !seen[stat.Ino] {
			bytes += stat.Blocks * 512
		}
		seen[stat.Ino] = true
		return nil
	}))
	return bytes, files
}

func TestWalk_CountsAllNamesAndTheBytesOfEachFileOnce(t *testing.T) {
	root, other, outside := t.TempDir(), t.TempDir(), t.TempDir()
	fill(t, outside, 50)
	fill(t, filepath.Join(root, "many"), 1000)
	nest(t, root, 100)
	require.NoError(t, os.WriteFile(filepath.Join(root, "large"), make([]byte, 1<<20), 0o600))
	for i := range 3 {
		require.NoError(t, os.Link(filepath.Join(root, "large"), filepath.Join(root, "many", "link"+strconv.Itoa(i))))
	}
	require.NoError(t, os.Symlink(outside, filepath.Join(root, "out")))
	require.NoError(t, os.Symlink("..", filepath.Join(root, "many", "round")))
	require.NoError(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(other, "file"), make([]byte, 100<<10), 0o600))
	open := openFiles(t)

	w := NewWalk(1_000_000, root, filepath.Join(root, "missing"), filepath.Join(root, "out"), other)
	require.True(t, w.Go(time.Now().Add(soon)))
	bytes, files := taken(t, root)
	moreBytes, moreFiles := taken(t, other)
	require.Equal(t, files+moreFiles, w.Files)
	require.Equal(t, bytes+moreBytes, w.Bytes)
	require.False(t, w.TooDeep)
	require.Equal(t, open, openFiles(t))
}

func TestWalk_LooksIntoFoldersThatTheirOwnerClosed(t *testing.T) {
	need.Root(t)
	root := t.TempDir()
	fill(t, filepath.Join(root, "closed"), 10)
	require.NoError(t, os.Chmod(filepath.Join(root, "closed"), 0))
	w := NewWalk(1000, root)
	require.True(t, w.Go(time.Now().Add(soon)))
	require.EqualValues(t, 12, w.Files)
}

func TestWalk_GoesOnWhereItsTimeWasOver(t *testing.T) {
	root := t.TempDir()
	fill(t, filepath.Join(root, "a"), 300)
	nest(t, root, 50)
	w := NewWalk(1000, root)
	times := 1
	for ; !w.Go(time.Time{}); times++ {
		require.Less(t, times, 10_000)
	}
	require.EqualValues(t, 353, w.Files)
	require.Greater(t, times, 353)
}

func TestWalk_EndsWhereItIsTooDeepOrFindsTooMuch(t *testing.T) {
	for name, levels := range map[string]int{"as deep as may be": MaxDepth - 1, "a level more": MaxDepth,
		"very deep": 8000} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			defer func() { require.NoError(t, removeTree(root)) }()
			nest(t, root, levels)
			open := openFiles(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			w := NewWalk(1_000_000, root)
			require.True(t, w.Go(time.Now().Add(soon)))
			runtime.ReadMemStats(&after)
			require.Equal(t, levels >= MaxDepth, w.TooDeep)
			require.LessOrEqual(t, w.Files, int64(MaxDepth+1))
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
			require.Equal(t, open, openFiles(t))
		})
	}
	root := t.TempDir()
	fill(t, filepath.Join(root, "a"), 100)
	open := openFiles(t)
	w := NewWalk(50, root)
	require.True(t, w.Go(time.Now().Add(soon)))
	require.EqualValues(t, 51, w.Files)
	require.Equal(t, open, openFiles(t))

	w = NewWalk(1000, root)
	require.False(t, w.Go(time.Time{}))
	w.Close()
	require.Equal(t, open, openFiles(t))
}

// Whatever its owner does to the tree meanwhile, a walk doesn't leave it.
func TestWalk_IsntLedAwayByAFolderThatBecomesALink(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	fill(t, outside, 200)
	folder, link := filepath.Join(root, "folder"), filepath.Join(root, "link")
	fill(t, folder, 1)
	require.NoError(t, os.Symlink(outside, link))
	over, swapped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-over:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 2000 {
		w := NewWalk(1_000_000, root)
		require.True(t, w.Go(time.Now().Add(soon)))
		require.Less(t, w.Files, int64(10))
	}
	close(over)
	<-swapped
}

func TestRemoveTree_TakesAllAndNothingElse(t *testing.T) {
	outside := t.TempDir()
	fill(t, outside, 10)
	for name, plant := range map[string]func(t *testing.T, root string){
		"deep":  func(t *testing.T, root string) { nest(t, root, 6000) },
		"wide":  func(t *testing.T, root string) { fill(t, root, 10_000) },
		"links": func(t *testing.T, root string) { require.NoError(t, os.Symlink(outside, filepath.Join(root, "l"))) },
		"closed": func(t *testing.T, root string) {
			fill(t, filepath.Join(root, "a", "b"), 3)
			require.NoError(t, os.Chmod(filepath.Join(root, "a", "b"), 0o500))
			require.NoError(t, os.Chmod(filepath.Join(root, "a"), 0))
		},
		"deep and wide": func(t *testing.T, root string) {
			for i := range 5 {
				branch := filepath.Join(root, strconv.Itoa(i))
				fill(t, branch, 100)
				nest(t, branch, 200)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			require.NoError(t, os.Mkdir(root, 0o700))
			plant(t, root)
			open := openFiles(t)
			fewFiles(t, uint64(open+maxOpen+20))
			require.NoError(t, removeTree(root))
			require.NoDirExists(t, root)
			require.Equal(t, open, openFiles(t))
			require.NoError(t, removeTree(root), "what isn't there is gone")
		})
	}
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Len(t, left, 10)

	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(outside, link))
	require.Error(t, removeTree(link))
	require.FileExists(t, filepath.Join(outside, "0"))
}

func TestLockFolder_RemovesWhatTenantsOfTheDeadNested(t *testing.T) {
	root := t.TempDir()
	dead := lockFolder(t, root)
	nest(t, dead.Path(), 6000)
	require.NoError(t, dead.lock.Close()) // as the kernel does for a dead process
	fewFiles(t, 500)
	own, err := LockFolder(root, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoDirExists(t, dead.Path())
	require.NoError(t, own.Close())
}

// BenchmarkRemoveTree takes the trees that tenants made, and BenchmarkWalk measures them.
func BenchmarkRemoveTree(b *testing.B) {
	benchTrees(b, func(root string) { require.NoError(b, removeTree(root)) })
}

func BenchmarkWalk(b *testing.B) {
	benchTrees(b, func(root string) { require.True(b, NewWalk(1_000_000, root).Go(time.Now().Add(soon))) })
}

func benchTrees(b *testing.B, do func(root string)) {
	for name, plant := range map[string]func(root string){
		"levels=6000":  func(root string) { nest(b, root, 6000) },
		"levels=8000":  func(root string) { nest(b, root, 8000) },
		"files=100000": func(root string) { fill(b, root, 100_000) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				root := filepath.Join(b.TempDir(), "root")
				require.NoError(b, os.Mkdir(root, 0o700))
				plant(root)
				b.StartTimer()
				do(root)
				b.StopTimer()
				require.NoError(b, removeTree(root))
				b.StartTimer()
			}
		})
	}
}

func TestUnlinkedBy_IsWhatHasNoNameAnyMore(t *testing.T) {
	b := newBench(t)
	w, other := b.workspace("one"), b.workspace("two")
	c := b.start(shell(w, `exec 3>gone 4>named; head -c 1000000 /dev/zero | tee /dev/fd/4 >&3; rm gone; setsid sleep `+
		`1000 & echo $$ >$1; exec 5>&3; wait`))
	idle := b.start(shell(other, `echo $$ >$1; exec sleep 1000`))
	pids(t, w, 1)
	pids(t, other, 1)
	require.Eventually(t, func() bool {
		held, err := UnlinkedBy(c, idle)
		require.NoError(t, err)
		require.Zero(t, held[1])
		return held[0].Bytes >= 1_000_000 && held[0].Bytes < 1_100_000 && !held[0].TooMany
	}, patience, 10*time.Millisecond)
	for _, one := range []*Child{c, idle} {
		require.NoError(t, one.Stop(t.Context(), Ladder{}))
	}
}
