package workspace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Index tells whose the folders are, for people who look at where they are: for each user a folder with a link for each
// session. Nothing of the service reads it. Its methods may be called concurrently.
type Index struct {
	root string
	mu   sync.Mutex // a session id may be used again while what had it before is being removed
}

// NewIndex returns the index in root, where the folders are too.
func NewIndex(root string) *Index { return &Index{root: root} }

// Link points the session's link to the folder, whatever it pointed to before.
func (x *Index) Link(userID, session string, f *Folder) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	link := x.link(userID, session)
	err := os.MkdirAll(filepath.Dir(link), 0o700)
	if err == nil {
		err = removeIfThere(link)
	}
	if err == nil {
		err = os.Symlink(target(f), link)
	}
	if err != nil {
		return fmt.Errorf("workspace: index: %w", err)
	}
	return nil
}

// Unlink removes the session's link if it points to the folder, and with a user's last link all that is of the user.
func (x *Index) Unlink(userID, session string, f *Folder) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	link := x.link(userID, session)
	if to, err := os.Readlink(link); err != nil || to != target(f) {
		return nil
	}
	if err := removeIfThere(link); err != nil {
		return fmt.Errorf("workspace: index: %w", err)
	}
	_ = os.Remove(filepath.Dir(link)) // fails while there are others
	return nil
}

func (x *Index) link(userID, session string) string { return filepath.Join(x.root, userID, session) }

func target(f *Folder) string { return filepath.Join("..", filepath.Base(f.Root)) }

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
