package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"

	"claudepool/pool/confine"
)

const (
	watchInterval = 250 * time.Millisecond
	// leftTime is how long what a dead instance leaves may be there: a lease, and what a busy machine adds.
	leftTime = 20 * time.Second
)

// cli is a running process that was started for a conversation, or by one that was.
type cli struct {
	proc      procfs.Proc
	parent    int
	started   uint64
	workspace string
	program   string
}

// clis returns all of them, also those whose instance is dead.
func (s *stage) clis() ([]cli, error) {
	procs, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	var found []cli
	for _, p := range procs {
		environ, err := p.Environ()
		if err != nil {
			continue // it has just ended
		}
		for _, entry := range environ {
			workspace, marked := strings.CutPrefix(entry, confine.Marker+"=")
			if !marked || !strings.HasPrefix(workspace, s.dir+"/") {
				continue
			}
			program, _ := p.Executable()
			if stat, err := p.Stat(); err == nil && stat.State != "Z" {
				found = append(found, cli{p, stat.PPID, stat.Starttime, workspace, program})
			}
		}
	}
	return found, nil
}

// runs reports whether it still does.
func (c cli) runs() bool {
	stat, err := c.proc.Stat()
	return err == nil && stat.Starttime == c.started && stat.State != "Z"
}

// watcher looks for users who have processes on two instances.
type watcher struct {
	stage  *stage
	load   *load
	owners map[string]string // user by workspace
}

func (w *watcher) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look()
		}
	}
}

func (w *watcher) look() {
	all, err := w.stage.clis()
	if err != nil {
		return
	}
	type held struct {
		cli cli
		by  *instance
	}
	first := make(map[string]held)
	for _, c := range all {
		if c.program != w.stage.scripted && c.program != w.stage.real {
			continue // it removes a workspace
		}
		by, user := w.stage.ledger.byPID(c.parent), w.owner(c)
		if by == nil || user == "" {
			continue // a standby's, or of an instance that is dead
		}
		before, known := first[user]
		if !known {
			first[user] = held{c, by}
		} else if before.by != by && before.cli.runs() {
			w.stage.ledger.double(user, before.by, by, "processes")
		}
	}
}

// owner returns the user of a process, from the index that its instance keeps.
func (w *watcher) owner(c cli) string {
	if user, known := w.owners[c.workspace]; known {
		return user
	}
	folder := filepath.Dir(c.workspace)
	// an instance with a disk of its own is the only one to see it
	inside := fmt.Sprintf("/proc/%d/root", c.parent)
	links, _ := filepath.Glob(filepath.Join(inside, folder, "*", "*")) // the pattern is sound
	for _, link := range links {
		target, err := os.Readlink(link)
		if user, known := w.load.users[filepath.Base(filepath.Dir(link))]; err == nil && known {
			w.owners[filepath.Join(folder, filepath.Base(target))] = user
		}
	}
	return w.owners[c.workspace]
}

// left returns what instances that are no more have left, and waits for a while for there to be nothing.
func (s *stage) left(ctx context.Context, living []*instance, keys ...string) string {
	for deadline := time.Now().Add(leftTime); ; time.Sleep(200 * time.Millisecond) {
		found := s.leftNow(ctx, living, keys)
		if found == "" || time.Now().After(deadline) {
			return found
		}
	}
}

func (s *stage) leftNow(ctx context.Context, living []*instance, prefixes []string) string {
	var found []string
	all, err := s.clis()
	if err != nil {
		return err.Error()
	}
	for _, c := range all {
		child := slices.ContainsFunc(all, func(o cli) bool { return o.proc.PID == c.parent })
		if !child && s.ledger.byPID(c.parent) == nil && c.runs() {
			found = append(found, fmt.Sprintf("process %d of %s", c.proc.PID, c.workspace))
		}
	}
	for _, prefix := range prefixes {
		keys, err := s.keys(ctx, prefix)
		if err != nil {
			return err.Error()
		}
		for _, key := range keys {
			if !slices.ContainsFunc(living, func(i *instance) bool { return strings.HasSuffix(key, i.id) }) {
				found = append(found, "key "+key)
			}
		}
	}
	folders, _ := filepath.Glob(filepath.Join(s.root, "instance-*"))
	if len(folders) > len(living) {
		found = append(found, fmt.Sprintf("%d folders of %d instances", len(folders), len(living)))
	}
	return strings.Join(found, ", ")
}
