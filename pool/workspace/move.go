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

// MaxMoved is how many files are moved to another folder. Each has to be given to another uid: with more a start of the
// CLI is as fast.
const MaxMoved = 3000

// Movable reports whether a CLI that was started in another folder could go on in what is here as if it had been started
// with it. Of how many files there are MoveTo finds out.
func (f *Folder) Movable() bool {
	files, err := os.OpenRoot(f.Root)
	if err != nil {
		return false
	}
	defer files.Close()
	return !slices.ContainsFunc(claude.ReadAtStart(homeFolder, workFolder, f.Cwd), func(path string) bool {
		_, err := files.Lstat(path)
		return err == nil
	})
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
			err = m.entries(filepath.Join(f.Root, part), filepath.Join(g.Root, part))
		}
	}
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("workspace: move: %w", err), m.undo(), f.launcher.GiveAway(g.Root, f.Root, MaxMoved))
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

// entries moves what is in a folder into another one that its process may be in. What has the same name there, as the
// sockets of the CLI itself, stays.
func (m *move) entries(from, to string) error {
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		old, now := filepath.Join(from, name.Name()), filepath.Join(to, name.Name())
		err := unix.Renameat2(unix.AT_FDCWD, old, unix.AT_FDCWD, now, unix.RENAME_NOREPLACE)
		switch {
		case errors.Is(err, unix.EEXIST):
		case err != nil:
			return err
		default:
			m.undoes = append(m.undoes, func() error { return os.Rename(now, old) })
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
