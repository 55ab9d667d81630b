package confine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrTooMany says that there are more files in a workspace than were allowed for.
var ErrTooMany = errors.New("confine: too many files")

// GiveAway has all that is in a workspace belong to another workspace's uid, so that it can be moved there. It fails
// with ErrTooMany if that is more than so many files, and with ErrWorkspaceBusy while a child is in it. After an error
// everything belongs to whom it belonged to before.
func (l *Launcher) GiveAway(workspace, to string, most int64) error {
	if reaper.inUse(workspace) {
		return ErrWorkspaceBusy
	}
	err := chownTree(workspace, l.Owner(to), most)
	if err == nil {
		return nil
	}
	if undone := chownTree(workspace, l.Owner(workspace), most+1); undone != nil && !errors.Is(undone, ErrTooMany) {
		err = errors.Join(err, undone)
	}
	return fmt.Errorf("confine: give away: %w", err)
}

// CheckFiles fails with ErrTooMany if there are more than so many files in a workspace.
func (l *Launcher) CheckFiles(workspace string, most int64) error {
	w := NewWalk(most, workspace)
	w.finish()
	return w.tooMany()
}

// chownTree changes whose the files in a folder are, following no links. Nobody may change the folder meanwhile.
func chownTree(path string, owner int, most int64) error {
	w := NewWalk(most, path)
	w.visit = func(folder int, name string) error {
		return unix.Fchownat(folder, name, owner, owner, unix.AT_SYMLINK_NOFOLLOW)
	}
	w.finish()
	return errors.Join(w.err, w.tooMany())
}
