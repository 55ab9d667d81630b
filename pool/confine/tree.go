package confine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What tenants nest is gone through folder by folder, each opened in the one before by its name alone: a path may
// setUID too long, to look it up from the root on at each level costs the square of the depth, and a link on it may
// lead anywhere.

const (
	// direntsRead is how much of a folder is read at a time, in bytes.
	direntsRead = 4 << 10
	// maxOpen is how many folders are open at a time while a tree is removed: what is deeper is moved up first.
	maxOpen = 64

	folderFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
)

// listing is an open folder that is being read.
type listing struct {
	fd      int
	name    string // in the folder above
	buf     []byte
	rest    []byte // of buf: what was read and not returned yet
	changed bool   // something was taken out since it is read from its beginning
}

// openRoot opens the folder at a path whose way there is the service's own.
func openRoot(path string) (*listing, error) {
	fd := -1
	err := uninterrupted(func() (err error) { fd, err = unix.Open(path, folderFlags, 0); return err })
	if err != nil {
		return nil, err
	}
	return &listing{fd: fd}, nil
}

// open opens a folder in this one, unless it is a link or something else is mounted there.
func (l *listing) open(name string) (*listing, error) {
	how := unix.OpenHow{Flags: folderFlags, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS}
	fd := -1
	err := uninterrupted(func() (err error) { fd, err = unix.Openat2(l.fd, name, &how); return err })
	if errors.Is(err, unix.ENOSYS) { // an old kernel, or a sandbox
		err = uninterrupted(func() (err error) { fd, err = unix.Openat(l.fd, name, folderFlags, 0); return err })
	}
	if err != nil {
		return nil, err
	}
	return &listing{fd: fd, name: name}, nil
}

// deeper adds a folder to those that are open, from the root down. What one of the same depth was read into before is
// used again, as there may be hundreds of thousands.
func deeper(open []*listing, l *listing) []*listing {
	if n := len(open); n < cap(open) {
		if before := open[:n+1][n]; before != nil {
			l.buf = before.buf
		}
	}
	return append(open, l)
}

// next is the name of what comes next in the folder, or empty at its end.
func (l *listing) next() (string, error) {
	if l.buf == nil {
		l.buf = make([]byte, direntsRead)
	}
	for {
		if len(l.rest) == 0 {
			n := 0
			err := uninterrupted(func() (err error) { n, err = unix.Getdents(l.fd, l.buf); return err })
			if err != nil || n <= 0 {
				return "", err
			}
			l.rest = l.buf[:n]
		}
		var room [1]string
		used, _, names := unix.ParseDirent(l.rest, 1, room[:0])
		l.rest = l.rest[used:]
		if len(names) > 0 {
			return names[0], nil
		}
	}
}

// rewind has the folder read from its beginning again.
func (l *listing) rewind() error {
	l.rest, l.changed = nil, false
	_, err := unix.Seek(l.fd, 0, unix.SEEK_SET)
	return err
}

func (l *listing) unlink(name string, flags int) error {
	return uninterrupted(func() error { return unix.Unlinkat(l.fd, name, flags) })
}

func (l *listing) close() { _ = unix.Close(l.fd) }

func uninterrupted(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// removeTree removes a folder with all that is in it, however deep, following no links. Nobody may change it meanwhile.
// os.RemoveAll would hold a file open for each level it is down, so that a tenant's folders could take the service all
// the files it may open.
func removeTree(path string) error {
	err := emptyTree(path)
	if err == nil {
		err = uninterrupted(func() error { return unix.Rmdir(path) })
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", filepath.Base(path), err)
	}
	return nil
}

func emptyTree(path string) error {
	root, err := openRoot(path)
	if errors.Is(err, unix.EACCES) { // see takeNext
		if err = unix.Fchmodat(unix.AT_FDCWD, path, 0o700, 0); err == nil {
			root, err = openRoot(path)
		}
	}
	if err != nil {
		return err
	}
	open := []*listing{root} // from the root down
	defer func() {
		for _, l := range open {
			l.close()
		}
	}()
	for {
		here := open[len(open)-1]
		inner, end, err := here.takeNext(root, len(open) == maxOpen)
		switch {
		case err != nil:
			return err
		case inner != nil:
			open = deeper(open, inner)
		case end && here.changed: // what is taken out of a folder while it is read may hide something else
			if err := here.rewind(); err != nil {
				return err
			}
		case end && here == root:
			return nil
		case end:
			open = open[:len(open)-1]
			here.close()
			above := open[len(open)-1]
			if err := above.unlink(here.name, unix.AT_REMOVEDIR); err != nil {
				return err
			}
			above.changed = true
		}
	}
}

// takeNext removes what comes next in the folder. If that is a folder, it is returned to be emptied, or moved to the
// root where no more may be open.
func (l *listing) takeNext(root *listing, isDeepest bool) (inner *listing, end bool, err error) {
	name, err := l.next()
	if err != nil || name == "" {
		return nil, true, err
	}
	err = l.unlink(name, 0)
	switch {
	case errors.Is(err, unix.EISDIR):
	case err == nil, errors.Is(err, unix.ENOENT):
		l.changed = true
		return nil, false, nil
	default:
		return nil, false, err
	}
	if isDeepest {
		l.changed, root.changed = true, true
		return nil, false, uninterrupted(func() error { return unix.Renameat(l.fd, name, root.fd, rand.Text()) })
	}
	inner, err = l.open(name)
	if errors.Is(err, unix.EACCES) { // its owner closed it, and we are no root
		if err = unix.Fchmodat(l.fd, name, 0o700, 0); err == nil {
			inner, err = l.open(name)
		}
	}
	if err == nil {
		_ = unix.Fchmod(inner.fd, 0o700) // the same; where it fails, taking something out does
	}
	return inner, false, err
}
