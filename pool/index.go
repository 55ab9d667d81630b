package pool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// index tells whose the workspaces are, for people who look at the instance's folder: for each user a folder with a link
// for each session. Nothing of the service reads it. Its methods are safe for concurrent use.
type index struct {
	root string
	mu   sync.Mutex // a session id may be used again while what had it before is being removed
}

func (x *index) entry(userID, session string) string { return filepath.Join(x.root, userID, session) }

func target(w *workspace) string { return filepath.Join("..", filepath.Base(w.Root)) }

// enter points the session's entry to the workspace, whatever it pointed to before.
func (x *index) enter(userID, session string, w *workspace) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	entry := x.entry(userID, session)
	err := os.MkdirAll(filepath.Dir(entry), 0o700)
	if err == nil {
		err = remove(entry)
	}
	if err == nil {
		err = os.Symlink(target(w), entry)
	}
	if err != nil {
		return fmt.Errorf("pool: index: %w", err)
	}
	return nil
}

// strike removes the session's entry if it points to the workspace, and the user's folder with its last entry.
func (x *index) strike(userID, session string, w *workspace) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	entry := x.entry(userID, session)
	if points, err := os.Readlink(entry); err != nil || points != target(w) {
		return nil
	}
	if err := remove(entry); err != nil {
		return fmt.Errorf("pool: index: %w", err)
	}
	_ = os.Remove(filepath.Dir(entry)) // fails while there are others
	return nil
}

func remove(entry string) error {
	if err := os.Remove(entry); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
