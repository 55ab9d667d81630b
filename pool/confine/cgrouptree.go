package confine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	treePrefix = "claudepool-"
	// serviceGroup is the group in a tree that the service itself is in. While it has a process, the instance lives.
	serviceGroup = "service"
	// serviceWeight has the service come before its children, each of which has the usual 100.
	serviceWeight = "10000"
	// removeTries is how often a group is tried to be removed whose last process ends just now, every removePause.
	removeTries = 50
	removePause = 10 * time.Millisecond
)

// cgroupTree is the group below which this process's own and those of its children are.
type cgroupTree struct {
	base    string // the group that this process was in
	dir     string
	enabled []string // controllers that the base didn't hand down before
	idles   bool     // groups can be told to give way
}

// newCgroupTree moves this process, which is in the base, into a tree of its own that has the controllers. Where it
// fails, all is as it was.
func newCgroupTree(base string, controllers []string) (*cgroupTree, error) {
	for _, name := range controllers {
		if !lists(base, "cgroup.controllers", name) {
			return nil, fmt.Errorf("no controller of %s", name)
		}
	}
	removeDeadTrees(base)
	t := &cgroupTree{base: base, dir: filepath.Join(base, treePrefix+strings.ToLower(rand.Text()))}
	err := os.Mkdir(t.dir, 0o755) // #nosec G301 -- as the kernel's are
	if err == nil {
		err = os.Mkdir(t.service(), 0o755) // #nosec G301 -- the same
	}
	if err == nil {
		err = writeCgroup(t.service(), "cgroup.procs", "0") // this process
	}
	if err == nil {
		err = t.enable(controllers...)
	}
	if err != nil {
		_ = t.close() // a part of it may not have been done
		return nil, err
	}
	t.idles = t.shareProcessors() == nil
	return t, nil
}

func (t *cgroupTree) service() string { return filepath.Join(t.dir, serviceGroup) }

// enable has children's groups get files of the controllers. The kernel refuses it while others are in the base.
func (t *cgroupTree) enable(controllers ...string) error {
	for _, name := range controllers {
		if !lists(t.base, "cgroup.subtree_control", name) {
			if err := writeCgroup(t.base, "cgroup.subtree_control", "+"+name); err != nil {
				return err
			}
			t.enabled = append(t.enabled, name)
		}
		if err := writeCgroup(t.dir, "cgroup.subtree_control", "+"+name); err != nil {
			return err
		}
	}
	return nil
}

// shareProcessors divides the processors evenly among children. Only where a group as a whole can give way: SCHED_IDLE
// of its threads would count within it alone.
func (t *cgroupTree) shareProcessors() error {
	if _, err := os.Stat(filepath.Join(t.base, "cpu.idle")); err != nil {
		return err
	}
	if err := t.enable("cpu"); err != nil {
		return err
	}
	return writeCgroup(t.service(), "cpu.weight", serviceWeight)
}

// close leaves nothing of the tree.
func (t *cgroupTree) close() error {
	errs := []error{removeGroups(t.dir)}
	for _, name := range t.enabled { // first, as a group that hands limits down can have no process
		errs = append(errs, writeCgroup(t.dir, "cgroup.subtree_control", "-"+name),
			writeCgroup(t.base, "cgroup.subtree_control", "-"+name))
	}
	errs = append(errs, writeCgroup(t.base, "cgroup.procs", "0"), removeGroup(t.service()), removeGroup(t.dir))
	return errors.Join(errs...)
}

// removeDeadTrees removes what instances left that are dead. Their children are: where one isn't, it is ended.
func removeDeadTrees(base string) {
	trees, _ := filepath.Glob(filepath.Join(base, treePrefix+"*"))
	for _, dir := range trees {
		service := filepath.Join(dir, serviceGroup)
		groups := groupsIn(dir) // before the look: a living instance is in its service group before it has others
		if !lists(service, "cgroup.events", "populated") || readCgroup(service, "cgroup.procs") != "" {
			continue
		}
		for _, group := range groups {
			_ = writeCgroup(group, "cgroup.kill", "1")
			if removeGroup(group) != nil {
				break // it is tried again at the next start
			}
		}
		_, _ = os.Remove(service), os.Remove(dir) // the kernel refuses it where an instance has just moved in
	}
}

// groupsIn are a tree's groups but for the service's own.
func groupsIn(dir string) (groups []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() && e.Name() != serviceGroup {
			groups = append(groups, filepath.Join(dir, e.Name()))
		}
	}
	return groups
}

func removeGroups(dir string) error {
	var errs []error
	for _, group := range groupsIn(dir) {
		errs = append(errs, removeGroup(group))
	}
	return errors.Join(errs...)
}

// removeGroup removes a group without living processes. The kernel may take a moment to see that it has none.
func removeGroup(dir string) (err error) {
	for range removeTries {
		err = os.Remove(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(removePause)
	}
	return err
}
