package workspace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"claudepool/pool/claude"
)

// repository is what makes a folder a git repository.
const repository = ".git"

// MaxMoved is how many files are moved to another folder. Each has to be given to another uid: with more a start of the
// CLI is as fast.
const MaxMoved = 5000

// ErrReadAtStart says that there are files of which a CLI takes notice at its start alone.
var ErrReadAtStart = errors.New("workspace: files that are read at a CLI's start")

// CheckMovable reports whether a CLI that was started in another folder could go on with what is here as if it had been
// started with it. The error is ErrReadAtStart, or confine.ErrTooMany if there are more than MaxMoved files.
func (f *Folder) CheckMovable() error {
	files, err := os.OpenRoot(f.Root)
	if err != nil {
		return err
	}
	defer files.Close()
	for _, path := range claude.ReadAtStart(homeFolder, workFolder) {
		if _, err := files.Lstat(path); err == nil {
			return ErrReadAtStart
		}
	}
	return f.launcher.CheckFiles(f.Root, MaxMoved)
}

// IsRepository reports whether a CLI that works here takes it for a git repository, which it looks for at its start.
func (f *Folder) IsRepository() bool {
	files, err := os.OpenRoot(f.Root)
	if err != nil {
		return false
	}
	defer files.Close()
	_, err = files.Lstat(filepath.Join(workFolder, repository))
	return err == nil
}

// MakeRepository has a CLI that is about to be started take the folder for a git repository. MoveTo puts a real one in
// its place. Nobody may be in the folder yet.
func (f *Folder) MakeRepository() error {
	path := filepath.Join(f.Root, workFolder, repository)
	if err := os.Mkdir(path, 0o700); err != nil {
		return fmt.Errorf("workspace: %w", err)
	}
	owner := f.launcher.Owner(f.Root)
	if err := os.Lchown(path, owner, owner); err != nil {
		return fmt.Errorf("workspace: %w", err)
	}
	return nil
}

// MoveTo moves all that is in the folder into another one, which is seen at the same path by its process. That has
// started and done nothing yet. Nothing may run in this folder, which has to be removed afterwards. The error is
// confine.ErrTooMany where there are more than MaxMoved files; after any error all of them are where they were.
func (f *Folder) MoveTo(g *Folder) error {
	if err := f.launcher.GiveAway(f.Root, g.Root, MaxMoved); err != nil {
		return err
	}
	var m move
	err := m.exchange(filepath.Join(f.Root, homeFolder), filepath.Join(g.Root, homeFolder))
	for _, part := range []string{workFolder, tempFolder} {
		if err == nil {
			err = m.moveInto(filepath.Join(f.Root, part), filepath.Join(g.Root, part))
		}
	}
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("workspace: move: %w", err), m.undo(), f.launcher.GiveAway(f.Root, f.Root, MaxMoved))
}

// move is what has been renamed by now.
type move struct{ undoes []func() error }

// exchange puts each of two folders in the other's place.
func (m *move) exchange(a, b string) error {
	swap := func() error { return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) }
	err := swap()
	if err == nil {
		m.undoes = append(m.undoes, swap)
	}
	return err
}

// moveInto moves what is in a folder into another one, in which a process may be. What has a name there already takes
// the other's place.
func (m *move) moveInto(from, to string) error {
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		old, now := filepath.Join(from, name.Name()), filepath.Join(to, name.Name())
		err := unix.Renameat2(unix.AT_FDCWD, old, unix.AT_FDCWD, now, unix.RENAME_NOREPLACE)
		switch {
		case errors.Is(err, unix.EEXIST):
			err = m.exchange(old, now)
		case err == nil:
			m.undoes = append(m.undoes, func() error { return os.Rename(now, old) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *move) undo() (err error) {
	for _, undo := range slices.Backward(m.undoes) {
		err = errors.Join(err, undo())
	}
	return err
}
