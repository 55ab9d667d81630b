package confine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// NewWorkspace makes a folder of an opaque name with the given folders in it and returns its path. With uids, all of it
// belongs to one that no other workspace has, and every child in it runs under that one until RemoveWorkspace; nobody
// else can look into it.
func (l *Launcher) NewWorkspace(folders ...string) (string, error) {
	owner := -1
	if l.SeparatesUIDs() {
		var err error
		if owner, err = l.confinement.UIDs.acquire(); err != nil {
			return "", err
		}
	}
	name := make([]byte, 16)
	rand.Read(name)
	path := filepath.Join(l.root, hex.EncodeToString(name))
	if err := makeWorkspace(path, owner, folders); err != nil {
		l.release(owner)
		return "", errors.Join(fmt.Errorf("confine: workspace: %w", err), os.RemoveAll(path))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owners[path] = owner
	return path, nil
}

// SeparatesUIDs reports whether each workspace has a uid of its own.
func (l *Launcher) SeparatesUIDs() bool { return l.confinement != nil && l.confinement.UIDs != nil }

// Full reports whether every uid has a workspace, so that NewWorkspace would fail.
func (l *Launcher) Full() bool {
	return l.SeparatesUIDs() && l.confinement.UIDs.full()
}

// makeWorkspace gives the folder itself away last: until then nobody else can get into it.
func makeWorkspace(path string, owner int, folders []string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	for _, folder := range append(folders, ".") {
		inner := filepath.Join(path, folder)
		if err := os.MkdirAll(inner, 0o700); err != nil {
			return err
		}
		if err := os.Lchown(inner, owner, owner); err != nil {
			return err
		}
	}
	return nil
}

// RemoveWorkspace removes a workspace with all that is in it, following no links, and gives its uid back, which may
// take as long as there are files. It fails with ErrWorkspaceBusy while a child is in it. Where removing fails, the uid
// stays taken and it can be called again.
func (l *Launcher) RemoveWorkspace(path string) error {
	if filepath.Clean(path) != path || filepath.Dir(path) != l.root {
		return fmt.Errorf("confine: %q is no workspace of %q", path, l.root)
	}
	if reaper.inUse(path) {
		return ErrWorkspaceBusy
	}
	if err := removeTree(path); err != nil {
		return fmt.Errorf("confine: workspace: %w", err)
	}
	l.mu.Lock()
	owner, known := l.owners[path]
	delete(l.owners, path)
	l.mu.Unlock()
	if known {
		l.release(owner)
	}
	return nil
}

func (l *Launcher) release(owner int) {
	if owner > 0 {
		l.confinement.UIDs.release(owner)
	}
}

// Owner is the uid and gid that files in a workspace have to have for its children to be theirs, and -1 if that is the
// service's own: chown takes it as it is.
func (l *Launcher) Owner(workspace string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if owner, ok := l.owners[workspace]; ok {
		return owner
	}
	return -1
}
