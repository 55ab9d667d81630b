package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountName is where children find their workspace, in the workspaces' root.
const mountName = "current"

// MountPoint makes the folder at which each child can find its workspace; see Confinement.Mount. All instances with the
// same root have the same one: what a conversation was told of its files is true wherever it goes on.
func (f *Folder) MountPoint() (string, error) {
	path := filepath.Join(filepath.Dir(f.path), mountName)
	err := os.Mkdir(path, passable) // #nosec G301 -- tenants pass through
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return "", fmt.Errorf("confine: workspaces: %w", err)
	}
	return path, nil
}

// Mounts reports whether all children find their workspaces at the same path.
func (l *Launcher) Mounts() bool { return l.confinement != nil && l.confinement.Mount != "" }

// Seen is the path at which children find their workspace.
func (l *Launcher) Seen(workspace string) string {
	if l.Mounts() {
		return l.confinement.Mount
	}
	return workspace
}

// mount has the process and what it starts, and nobody else, find the workspace at one more path.
func (p plan) mount() error {
	if p.Mount == "" {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount(p.Workspace, p.Mount, "", unix.MS_BIND, "")
}
