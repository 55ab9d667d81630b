package confine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoUID says that all uids of the block have a workspace. Removing workspaces gives them back.
	ErrNoUID = errors.New("confine: no uid is left")
	// ErrCannotSwitch says that this process can't start others under uids of their own.
	ErrCannotSwitch = errors.New("confine: can't switch uids")
)

const (
	// uidLocks is the file in which the machine's instances lock their blocks, whatever folders they have. The byte at
	// each uid's number stands for that uid, so that blocks of different sizes don't overlap either.
	uidLocks = "/run/claudepool/uids"
	// uidEnd is beyond the last uid.
	uidEnd = 1<<32 - 1
)

// UIDs is a block of user ids, and of group ids of the same numbers, that this instance alone starts children under.
// Its methods may be called concurrently.
type UIDs struct {
	first, count int
	lock         *os.File

	mu    sync.Mutex // guards the following
	next  int        // where the search for a free one goes on: what was used last is used again last
	taken map[int]bool
}

// LockUIDs takes the first block of count uids from base on that no living instance of this machine has, and kills
// whatever still runs under them. It fails with ErrCannotSwitch without the right to switch to these uids.
func LockUIDs(base, count int, logger *slog.Logger) (*UIDs, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: not root", ErrCannotSwitch)
	}
	if err := os.MkdirAll(filepath.Dir(uidLocks), 0o700); err != nil {
		return nil, fmt.Errorf("confine: uids: %w", err)
	}
	file, err := os.OpenFile(uidLocks, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("confine: uids: %w", err)
	}
	u := &UIDs{count: count, lock: file, taken: make(map[int]bool)}
	u.first, err = lockBlock(file, base, count)
	if err == nil {
		err = u.clear(logger)
	}
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return u, nil
}

// lockBlock locks the first block that is free and returns where it begins. The kernel takes the lock away when the
// file is closed or the process ends, however it ends.
func lockBlock(file *os.File, base, count int) (int, error) {
	for first := base; first+count <= uidEnd; {
		block := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(first), Len: int64(count)}
		err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &block)
		if err == nil {
			return first, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return 0, fmt.Errorf("confine: lock uids: %w", err)
		}
		if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &block); err != nil {
			return 0, fmt.Errorf("confine: lock uids: %w", err)
		}
		if block.Type != unix.F_UNLCK { // else it has been given up since, or is about to be by a process that ends
			first = int(block.Start + block.Len)
		}
	}
	return 0, fmt.Errorf("%w: no block of %d is free", ErrNoUID, count)
}

// clear makes sure that the block can be used and that nothing runs under it.
func (u *UIDs) clear(logger *slog.Logger) error {
	for _, id := range []int{u.first, u.first + u.count - 1} {
		if err := trySetUID(id); err != nil {
			return fmt.Errorf("%w to %d: %w", ErrCannotSwitch, id, err)
		}
	}
	killed := 0
	err := killAll(nil, func(all []process) ([]process, bool) {
		var left []process
		for _, p := range all {
			if u.owns(p) && p.session != ownSession() {
				left = append(left, p)
			}
		}
		killed += len(left)
		return left, false
	})
	if killed > 0 {
		logger.Info("ended what a dead instance's uids left", "first", u.first, "killed", killed)
	}
	return err
}

// trySetUID tries whether a process can be started under the uid, by a program that isn't there: the switch comes
// first.
func trySetUID(id int) error {
	_, err := os.StartProcess("/nonexistent/program", []string{"program"}, &os.ProcAttr{
		// #nosec G115 -- settings bound it
		Sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}},
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Close gives the block up. Whatever runs under it has to be dead before.
func (u *UIDs) Close() error { return u.lock.Close() }

func (u *UIDs) has(id int) bool { return id >= u.first && id < u.first+u.count }

// acquire returns a uid that has no workspace and under which nothing runs.
func (u *UIDs) acquire() (int, error) {
	busy, err := u.busy()
	if err != nil {
		return 0, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for range u.count {
		id := u.first + u.next
		u.next = (u.next + 1) % u.count
		if !u.taken[id] && !busy[id] {
			u.taken[id] = true
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: %d workspaces have one", ErrNoUID, u.count)
}

// busy are the uids of the block under which something runs.
func (u *UIDs) busy() (map[int]bool, error) {
	all, err := scan(nil)
	if err != nil {
		return nil, err
	}
	busy := make(map[int]bool)
	for _, p := range all {
		if id, err := p.uid(); err == nil && u.owns(p) {
			busy[id] = true
		}
	}
	return busy, nil
}

func (u *UIDs) full() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.taken) >= u.count
}

func (u *UIDs) release(id int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.taken, id)
}

// owns says whether the process runs under one of the uids.
func (u *UIDs) owns(p process) bool {
	id, err := p.uid()
	return err == nil && u.has(id) && !p.isZombie()
}

// isZombie says whether nothing of the process runs any more. If its first thread alone has ended, it looks like one.
func (p process) isZombie() bool {
	if p.state != 'Z' {
		return false
	}
	threads, err := p.status("Threads:")
	return err != nil || threads <= 1
}

// uid is the process's real uid, which a child can't change: it is not the owner of its folder in /proc, which is root
// for a process that has made itself unreadable.
func (p process) uid() (int, error) {
	if p.session == 0 {
		return 0, nil // a thread of the kernel, or nothing of this process' namespace: spare the look
	}
	return p.status("Uid:")
}

// status reads the first number that stands after the key in the process's status.
func (p process) status(key string) (int, error) {
	buf := make([]byte, 2<<10)
	n, err := readProc(p.pid, "status", buf)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(buf[:n])) {
		if numbers, ok := strings.CutPrefix(line, key); ok {
			return strconv.Atoi(strings.Fields(numbers)[0])
		}
	}
	return 0, fmt.Errorf("confine: no %s in the status of %v", key, p)
}
