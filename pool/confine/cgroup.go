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
)

// ErrNoCgroups says that this process can't make control groups: most containers may not.
var ErrNoCgroups = errors.New("confine: control groups can't be made")

// CgroupLimits are what each child may take with all it started. Zero is no limit.
type CgroupLimits struct {
	Memory    int64 // bytes, of files in memory and of the kernel as well
	Processes int   // threads count
}

// Cgroups gives each child a control group of version 2, in which all it starts is, too. It adds to what holds without:
// the kernel counts all memory and ends a group as a whole, and divides the processors by children, not by threads. Its
// methods may be called concurrently.
type Cgroups struct {
	tree   *cgroupTree
	limits CgroupLimits
	logger *slog.Logger
	leave  sync.Once
	left   error
}

// NewCgroups moves this process into a group of its own, as only one without processes can hand limits down. It fails
// with ErrNoCgroups where that can't be done, and then all is as it was. What a dead instance left is removed.
func NewCgroups(limits CgroupLimits, logger *slog.Logger) (*Cgroups, error) {
	tree, err := ownTree.join(limits.controllers())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoCgroups, err)
	}
	return &Cgroups{tree: tree, limits: limits, logger: logger}, nil
}

// Close moves this process back and removes the groups that are left. The children have to be dead before.
func (g *Cgroups) Close() error {
	g.leave.Do(func() { g.left = ownTree.leave() })
	return g.left
}

func (l CgroupLimits) controllers() (names []string) {
	if l.Memory > 0 {
		names = append(names, "memory")
	}
	if l.Processes > 0 {
		names = append(names, "pids")
	}
	return names
}

// ownTree is this process's tree, and how many use it: a process is in one group, however many instances it has.
var ownTree treeUse

type treeUse struct {
	mu    sync.Mutex // guards the following; held while the tree is made, changed or removed
	tree  *cgroupTree
	users int
}

func (u *treeUse) join(controllers []string) (*cgroupTree, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.users > 0 {
		if err := u.tree.enable(controllers...); err != nil {
			return nil, err
		}
		u.users++
		return u.tree, nil
	}
	base, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	if u.tree, err = newCgroupTree(base, controllers); err != nil {
		return nil, err
	}
	u.users = 1
	return u.tree, nil
}

func (u *treeUse) leave() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.users--
	if u.users > 0 {
		return nil
	}
	return u.tree.close()
}

// ownCgroup is the folder of the group that this process is in.
func ownCgroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	_, path, found := strings.Cut("\n"+string(text), "\n0::")
	path, _, _ = strings.Cut(path, "\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !found {
		return "", errors.Join(errors.New("no hierarchy of version 2"), err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line) // its root is the fourth, its place the fifth
		if !strings.Contains(line, " - cgroup2 ") {
			continue
		}
		below, err := filepath.Rel(fields[3], path)
		dir := filepath.Join(fields[4], below)
		if err == nil && holds(dir, os.Getpid()) { // in a namespace, a path may be told that leads elsewhere
			return dir, nil
		}
	}
	return "", fmt.Errorf("this process's group %q is mounted nowhere", path)
}

// holds says whether the process is in the group.
func holds(dir string, pid int) bool {
	return lists(dir, "cgroup.procs", strconv.Itoa(pid))
}

// lists says whether a file of the group has the word.
func lists(dir, file, word string) bool {
	for _, w := range strings.Fields(readCgroup(dir, file)) {
		if w == word {
			return true
		}
	}
	return false
}

// readCgroup returns what a file of the group says, or nothing if it isn't there.
func readCgroup(dir, file string) string {
	text, err := os.ReadFile(filepath.Join(dir, file)) // #nosec G304 -- a group's
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func writeCgroup(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600) // the kernel's file is there, and keeps its mode
}
