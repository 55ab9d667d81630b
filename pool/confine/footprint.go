package confine

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// MostFiles is how many files a child with all it started may have open and mapped. What is beyond isn't looked at: a
// limit of files is each process's own, and 512 processes can open more of them than the machine has.
const MostFiles = 16 << 10

// What pipes take at most: usually pipeBytes each, but those of one user together not more than pipesBytes (pipe(7),
// pipe-user-pages-soft), beyond which the kernel gives a new one morePipeBytes.
const (
	pipeBytes     = 64 << 10
	pipesBytes    = 64 << 20
	morePipeBytes = 8 << 10
)

// maxLooksOfAll bounds how many files of a family, open and mapped, are looked at.
const maxLooksOfAll = 8 * MostFiles

// footprint adds up the memory of a family of processes: what is their own, what they share, once, and what pipes and
// sockets may hold for them. What the kernel can drop, as pages of files, isn't counted.
type footprint struct {
	own            int64
	files, looks   int
	pipes, sockets map[inode]bool
	// files in memory without a name: processes that share memory have one, also without having opened it
	shared map[inode]int64
	memory inMemory
}

type inode struct{ dev, number uint64 }

// inMemory tells of file systems whether they are in memory.
type inMemory map[uint64]bool

func newFootprint(memory inMemory) *footprint {
	return &footprint{pipes: make(map[inode]bool), sockets: make(map[inode]bool), shared: make(map[inode]int64),
		memory: memory}
}

// add adds a process. It fails if that has ended.
func (h *footprint) add(pid int) error {
	own, shared, err := resident(pid)
	if err != nil {
		return err
	}
	h.own += own
	h.look(pid, "fd")
	if !h.look(pid, "map_files") { // of other users they are shown with a capability only
		h.own += shared
	}
	return nil
}

// look adds the files in a folder of a process's. It reports whether all that are there could be told.
func (h *footprint) look(pid int, folder string) bool {
	path := "/proc/" + strconv.Itoa(pid) + "/" + folder
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	var buf [8 << 10]byte
	for h.files <= MostFiles {
		n, err := unix.ReadDirent(dir, buf[:])
		if err != nil || n <= 0 {
			return err == nil
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			var stat unix.Stat_t
			err := unix.Fstatat(dir, name, &stat, 0)
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
				return false
			}
			if err == nil { // else it has just been closed
				if folder == "fd" {
					h.files++ // what is mapped of programs and libraries takes no place among the machine's open files
				}
				if h.looks++; h.looks > maxLooksOfAll {
					return false
				}
				h.note(&stat, path+"/"+name)
			}
		}
	}
	return true
}

func (h *footprint) note(stat *unix.Stat_t, path string) {
	id := inode{uint64(stat.Dev), stat.Ino}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		h.pipes[id] = true
	case unix.S_IFSOCK:
		h.sockets[id] = true
	case unix.S_IFREG:
		if stat.Nlink == 0 && h.memory.has(id.dev, path) { // those with a name are among the workspace's
			h.shared[id] = stat.Blocks * 512
		}
	}
}

// has says whether the file system that a file is on is in memory.
func (d inMemory) has(dev uint64, path string) bool {
	is, known := d[dev]
	if known {
		return is
	}
	var stat unix.Statfs_t
	if unix.Statfs(path, &stat) != nil {
		return false
	}
	switch uint32(stat.Type) { // #nosec G115 -- the constants are of 32 bits
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.HUGETLBFS_MAGIC:
		is = true
	}
	d[dev] = is
	return is
}

// total is the sum, in bytes. Of a socket that may hold others' data it can't be told how much, as who has sent that
// may have closed its end: each counts as if it were full.
func (h *footprint) total(uids socketUse) int64 {
	sum := h.own + uids.tcp
	for _, size := range h.shared {
		sum += size
	}
	pipes := int64(len(h.pipes))
	sum += min(pipes*pipeBytes, pipesBytes+pipes*morePipeBytes)
	return sum + int64(max(len(h.sockets), uids.local))*socketBytes()
}

// socketBytes is what a local socket may hold: its buffer's size can't be changed, see ignored.
var socketBytes = sync.OnceValue(func() int64 {
	const usual = 212992
	text, err := os.ReadFile("/proc/sys/net/core/wmem_default")
	if err != nil {
		return usual
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return usual
	}
	return size
})

// resident returns the memory of a process that is its own, swapped out or not, with what the kernel needs to map it,
// and what it has mapped of shared memory, in bytes. Pages of files aren't counted: the program's own are shared by all
// children, and the kernel can drop them at any time.
func resident(pid int) (own, shared int64, err error) {
	buf := make([]byte, 4<<10)
	n, err := readProc(pid, "status", buf)
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(buf[:n]) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		sum := &own
		switch string(key) {
		case "RssShmem":
			sum = &shared
		case "RssAnon", "VmSwap", "VmPTE":
		default:
			continue
		}
		number, _, _ := bytes.Cut(bytes.TrimSpace(value), []byte(" "))
		kib, err := strconv.ParseInt(string(number), 10, 64)
		if err != nil {
			return 0, 0, err
		}
		*sum += kib << 10
	}
	return own, shared, nil
}

// living is by which number to look at the process: if its first thread alone has ended, that of another one. There is
// none of a process that has ended.
func (p process) living() (pid int, ok bool) {
	if p.state != 'Z' {
		return p.pid, true
	}
	if p.isZombie() {
		return 0, false
	}
	tasks, _ := os.ReadDir("/proc/" + strconv.Itoa(p.pid) + "/task")
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			continue
		}
		if thread, err := look(tid); err == nil && thread.state != 'Z' && thread.state != 'X' {
			return tid, true
		}
	}
	return 0, false
}
