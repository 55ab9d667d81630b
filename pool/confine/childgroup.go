package confine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// childGroup is a child's control group. Nil, which all methods take, is none.
type childGroup struct {
	dir  *os.File // open, to start the child in it
	idle bool     // it can be told to give way
}

// newGroup makes a child's group. Where that fails the child has none: it is held by all else. Names aren't used twice,
// so that what is meant for an ended child never reaches the next one.
func (g *Cgroups) newGroup() *childGroup {
	if g == nil {
		return nil
	}
	path := filepath.Join(g.tree.dir, strings.ToLower(rand.Text()))
	dir, err := g.makeGroup(path)
	if err != nil {
		_ = os.Remove(path)
		g.logger.Warn("a process has no control group", "error", err)
		return nil
	}
	return &childGroup{dir: dir, idle: g.tree.idles}
}

func (g *Cgroups) makeGroup(path string) (*os.File, error) {
	if err := os.Mkdir(path, 0o755); err != nil { // #nosec G301 -- as the kernel's are
		return nil, err
	}
	for _, l := range g.limits.files() {
		if err := writeCgroup(path, l.file, l.value); err != nil && !l.optional {
			return nil, err
		}
	}
	return os.Open(path) // #nosec G304 -- just made
}

// limitFile is a file of a group and what it is to say.
type limitFile struct {
	file, value string
	optional    bool // not all kernels and machines have it
}

func (l CgroupLimits) files() (files []limitFile) {
	if l.Memory > 0 {
		files = append(files, limitFile{"memory.max", strconv.FormatInt(l.Memory, 10), false},
			limitFile{"memory.oom.group", "1", false}, limitFile{"memory.swap.max", "0", true})
	}
	if l.Processes > 0 {
		files = append(files, limitFile{"pids.max", strconv.Itoa(l.Processes), false})
	}
	return files
}

// missing tells what of the limits isn't in force for a child in the group.
func (g *Cgroups) missing(of *childGroup, pid int) []string {
	missing := []string{}
	if of == nil || !holds(of.dir.Name(), pid) {
		return append(missing, "has no group of its own")
	}
	for _, l := range g.limits.files() {
		if got := readCgroup(of.dir.Name(), l.file); got != l.value && !l.optional {
			missing = append(missing, fmt.Sprintf("%s is %q", l.file, got))
		}
	}
	for _, controller := range g.limits.controllers() {
		if used, _ := strconv.Atoi(readCgroup(of.dir.Name(), controller+".current")); used <= 0 {
			missing = append(missing, controller+" isn't counted")
		}
	}
	return missing
}

// setIdle has the group do only what nobody else wants to use the processors for, or as usual again.
func (g *childGroup) setIdle(idle bool) {
	if g == nil || !g.idle {
		return
	}
	value := "0"
	if idle {
		value = "1"
	}
	_ = writeCgroup(g.dir.Name(), "cpu.idle", value) // its threads are told, too
}

// kill ends all that is in the group, also what forks faster than it can be found. Kernels before 5.14 can't.
func (g *childGroup) kill() {
	if g != nil {
		_ = writeCgroup(g.dir.Name(), "cgroup.kill", "1")
	}
}

// remove removes the group once nothing in it lives. What can't be is tried again by Cgroups.Close.
func (g *childGroup) remove() error {
	if g == nil {
		return nil
	}
	return errors.Join(g.dir.Close(), removeGroup(g.dir.Name()))
}
