package confine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	folderPrefix = "instance-"
	lockName     = ".lock"
	// passable lets children of other uids reach their workspaces below, but not list what is there.
	passable = 0o711
)

// Folder is this instance's own part of the workspaces' root. Its lock tells other instances that this one lives; the
// kernel takes the lock away when the process ends, however it ends.
type Folder struct {
	path string
	lock *os.File
}

// LockFolder makes a folder of this instance's own below root. It also cleans up after instances that are dead: what
// their children left is killed and their folders are removed; where that fails it is logged and left to the next
// start. Folders of living instances are never touched, and neither is anything in root that isn't named as an
// instance's folder. root is made if it is missing; it has to be a folder for this purpose alone.
func LockFolder(root string, logger *slog.Logger) (*Folder, error) {
	root, err := prepareRoot(root)
	if err != nil {
		return nil, err
	}
	// Between making a folder and locking it an instance looks dead, so both happen under a lock of the root's.
	rootLock, err := lock(root, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	dead, err := findDead(root)
	own, ownErr := newFolder(root)
	rootLock.Close()
	for _, d := range dead {
		d.clear(logger)
	}
	return own, errors.Join(err, ownErr)
}

// Path is absolute and free of symbolic links.
func (f *Folder) Path() string { return f.path }

// Close removes the folder with all that is in it and gives up the lock. Whatever runs in it has to be dead before.
func (f *Folder) Close() error {
	err := removeTree(f.path)
	return errors.Join(err, f.lock.Close())
}

// prepareRoot returns the path of root without symbolic links.
func prepareRoot(root string) (string, error) {
	if err := os.MkdirAll(root, passable); err != nil { // #nosec G301 -- tenants pass through, and cannot list
		return "", fmt.Errorf("confine: workspaces: %w", err)
	}
	root, err := filepath.Abs(root)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return "", fmt.Errorf("confine: workspaces: %w", err)
	}
	info, err := os.Stat(root)
	if err != nil {
		return "", fmt.Errorf("confine: workspaces: %w", err)
	}
	if info.Mode()&(os.ModePerm|os.ModeSticky) == passable {
		return root, nil
	}
	// To change the mode of a folder that others use as well, /tmp say, would do harm.
	entries, err := os.ReadDir(root)
	if err != nil {
		return "", fmt.Errorf("confine: workspaces: %w", err)
	}
	for _, e := range entries {
		// another instance may start just now
		ours := strings.HasPrefix(e.Name(), folderPrefix) || slices.Contains([]string{lockName, mountName}, e.Name())
		if !ours && e.Name() != "lost+found" {
			return "", fmt.Errorf("confine: workspaces: %s is neither empty nor of mode 0711: it has to be a folder of its own",
				root)
		}
	}
	if err := os.Chmod(root, passable); err != nil { // #nosec G302 -- the same
		return "", fmt.Errorf("confine: workspaces: %w", err)
	}
	return root, nil
}

// findDead returns the folders of instances that are dead, locked.
func findDead(root string) ([]*Folder, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("confine: workspaces: %w", err)
	}
	var dead []*Folder
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), folderPrefix) {
			continue
		}
		path := filepath.Join(root, e.Name())
		if held, err := lock(path, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			dead = append(dead, &Folder{path: path, lock: held})
		}
	}
	return dead, nil
}

func newFolder(root string) (*Folder, error) {
	path := filepath.Join(root, folderPrefix+strings.ToLower(rand.Text()))
	if err := os.Mkdir(path, passable); err != nil { // #nosec G301 -- the same
		return nil, fmt.Errorf("confine: workspaces: %w", err)
	}
	held, err := lock(path, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = os.Chmod(path, passable) // #nosec G302 -- whatever the umask
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	return &Folder{path: path, lock: held}, nil
}

// lock takes the lock of a folder. It lasts until the file is closed or the process ends.
func lock(folder string, how int) (*os.File, error) {
	f, err := lockFile(filepath.Join(folder, lockName), how)
	if err != nil {
		return nil, fmt.Errorf("confine: workspaces: %w", err)
	}
	return f, nil
}

func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600) // #nosec G304 -- the path is the service's
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err == nil {
			return f, nil
		}
		if err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// clear ends what a dead instance left and removes its folder.
func (f *Folder) clear(logger *slog.Logger) {
	killed, err := Sweep(f.path, func(string) bool { return true })
	if err != nil {
		f.lock.Close()
		logger.Error("a dead instance's processes are still there", "folder", f.path, "error", err)
		return
	}
	if err := f.Close(); err != nil {
		logger.Error("a dead instance's folder is still there", "folder", f.path, "error", err)
		return
	}
	logger.Info("cleaned up after a dead instance", "folder", f.path, "killed", killed)
}

// Sweep kills every process of the machine that carries the marker of a workspace below root that is dead, with all it
// started, and returns how many it found. It reaches those of its own uid, as root those of any. Processes that are in
// its own session are spared.
func Sweep(root string, dead func(workspace string) bool) (int, error) {
	killed := make(map[identity]bool)
	err := killAll(nil, func(all []process) ([]process, bool) {
		k := newKin(all)
		victims := k.closure(slices.DeleteFunc(slices.Clone(k.all), func(p process) bool {
			workspace, err := marker(p.pid)
			return err != nil || !strings.HasPrefix(workspace, root+"/") || !dead(workspace)
		}))
		for _, p := range victims {
			killed[p.identity] = true
		}
		return victims, false
	})
	return len(killed), err
}
