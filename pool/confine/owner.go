package confine

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

var (
	// ErrTooMany says that there are more files in a workspace than were allowed for.
	ErrTooMany = errors.New("confine: too many files")
	// ErrForeign says that a file in a workspace isn't its processes' own, as another name of one elsewhere may be.
	ErrForeign = errors.New("confine: a file of somebody else")
)

// CheckFiles fails with ErrTooMany if there are more than so many files in a workspace, and with ErrForeign if one of
// them isn't its processes' own.
func (l *Launcher) CheckFiles(workspace string, most int64) error {
	w := NewWalk(most, workspace)
	w.visit = func(_ int, _ string, stat *unix.Stat_t) error { return checkOwner(stat, l.Owner(workspace)) }
	return w.finish()
}

// GiveAway has all that is in a workspace belong to another workspace's uid, so that it can be moved there. It fails as
// CheckFiles does, and with ErrWorkspaceBusy while a child is in it. After an error everything belongs to whom it
// belonged to before.
func (l *Launcher) GiveAway(workspace, to string, most int64) error {
	if reaper.inUse(workspace) {
		return ErrWorkspaceBusy
	}
	owner, next := l.Owner(workspace), l.Owner(to)
	err := chownTree(workspace, most, next, owner, next) // next: by a second name within the workspace
	if err == nil {
		return nil
	}
	return fmt.Errorf("confine: give away: %w", errors.Join(err, l.TakeBack(workspace, to, most)))
}

// TakeBack undoes GiveAway, as far as that has come.
func (l *Launcher) TakeBack(workspace, from string, most int64) error {
	owner := l.Owner(workspace)
	err := chownTree(workspace, most+1, owner, owner, l.Owner(from))
	if errors.Is(err, ErrTooMany) || errors.Is(err, ErrForeign) { // what comes then wasn't given away
		return nil
	}
	return err
}

// chownTree changes whose the files in a folder are, if they belong to one of those given, following no links. Nobody
// may change the folder meanwhile.
func chownTree(path string, most int64, owner int, from ...int) error {
	w := NewWalk(most, path)
	w.visit = func(folder int, name string, stat *unix.Stat_t) error {
		if err := checkOwner(stat, from...); err != nil {
			return err
		}
		return unix.Fchownat(folder, name, owner, owner, unix.AT_SYMLINK_NOFOLLOW)
	}
	return w.finish()
}

// checkOwner looks whether a file belongs to one of those given. To give another one away would be to give away what
// has a second name elsewhere.
func checkOwner(stat *unix.Stat_t, owners ...int) error {
	if !slices.Contains(owners, int(stat.Uid)) {
		return ErrForeign
	}
	return nil
}
