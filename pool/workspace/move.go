package workspace

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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

var (
	// ErrUnmovable says that a CLI that was started elsewhere can't go on in the folder as if it had been started there.
	ErrUnmovable = errors.New("workspace: not to be moved")
	// ErrTorn says that a folder's files could be put neither all elsewhere nor all back.
	ErrTorn = errors.New("workspace: half moved")
)

// CheckMovable reports whether a CLI that was started in another folder could go on with what is here as if it had been
// started with it. The error is ErrUnmovable, or confine.ErrTooMany if there are more than MaxMoved files.
func (f *Folder) CheckMovable() error {
	files, err := os.OpenRoot(f.Root)
	if err != nil {
		return err
	}
	defer files.Close()
	if err := checkParts(files); err != nil {
		return err
	}
	for _, path := range claude.ReadAtStart(homeFolder, workFolder) {
		if _, err := files.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s is read at the start", ErrUnmovable, path)
		}
	}
	return f.launcher.CheckFiles(f.Root, MaxMoved)
}

// checkParts looks whether a folder has all its parts, as folders, and nothing else: its processes may rename them, put
// links in their places, and other files beside them.
func checkParts(files *os.Root) error {
	root, err := files.Open(".")
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := root.ReadDir(len(parts) + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !slices.Contains(parts, e.Name()) {
			return fmt.Errorf("%w: %q is none of its parts", ErrUnmovable, e.Name())
		}
	}
	if len(entries) < len(parts) {
		return fmt.Errorf("%w: a part is missing", ErrUnmovable)
	}
	return nil
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
// started and done nothing yet. Nothing may run in this folder, which CheckMovable has to have been asked about since
// and which has to be removed afterwards. After an error all files are where they were, unless it is ErrTorn.
func (f *Folder) MoveTo(g *Folder) error {
	if err := f.launcher.GiveAway(f.Root, g.Root, MaxMoved); err != nil {
		return err
	}
	m := &move{}
	defer m.close()
	err := m.all(f.Root, g.Root)
	if err == nil {
		return nil
	}
	undone := errors.Join(m.undo(), f.launcher.TakeBack(f.Root, g.Root, MaxMoved))
	if undone != nil {
		return errors.Join(ErrTorn, err, undone)
	}
	return fmt.Errorf("workspace: move: %w", err)
}

// move is what has been renamed by now. Everything is named from folders on that are open: no link is followed.
type move struct {
	open  []*os.File
	undos []func() error
}

func (m *move) close() {
	for _, f := range m.open {
		_ = f.Close()
	}
}

func (m *move) undo() (err error) {
	for _, undo := range slices.Backward(m.undos) {
		err = errors.Join(err, undo())
	}
	return err
}

// all moves what is in the parts of a folder. A process may be in the work folder of the other one, so that stays.
func (m *move) all(from, to string) error {
	old, err := m.folder(unix.AT_FDCWD, from)
	if err != nil {
		return err
	}
	now, err := m.folder(unix.AT_FDCWD, to)
	if err != nil {
		return err
	}
	if err := m.exchange(old, now, homeFolder); err != nil {
		return err
	}
	for _, part := range []string{workFolder, tempFolder} {
		if err := m.part(old, now, part); err != nil {
			return err
		}
	}
	return nil
}

// folder opens a folder, and nothing else that may have its name.
func (m *move) folder(in int, name string) (*os.File, error) {
	fd, err := unix.Openat(in, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	m.open = append(m.open, f)
	return f, nil
}

// part moves what is in a part of a folder. What has a name there already takes the other's place.
func (m *move) part(from, to *os.File, name string) error {
	old, err := m.folder(int(from.Fd()), name)
	if err != nil {
		return err
	}
	now, err := m.folder(int(to.Fd()), name)
	if err != nil {
		return err
	}
	names, err := old.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := m.rename(old, now, name)
		if errors.Is(err, unix.EEXIST) {
			err = m.exchange(old, now, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *move) rename(from, to *os.File, name string) error {
	return m.do(from, to, name, unix.RENAME_NOREPLACE)
}

// exchange puts each of two files of a name in the other's place.
func (m *move) exchange(from, to *os.File, name string) error {
	return m.do(from, to, name, unix.RENAME_EXCHANGE)
}

func (m *move) do(from, to *os.File, name string, how uint) error {
	rename := func(from, to *os.File) error {
		return unix.Renameat2(int(from.Fd()), name, int(to.Fd()), name, how)
	}
	err := rename(from, to)
	if err == nil {
		m.undos = append(m.undos, func() error { return rename(to, from) })
	}
	return err
}
