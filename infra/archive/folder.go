package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Folder is a Store in a folder, for the instances of one machine.
type Folder struct {
	root string
	ttl  time.Duration
}

// NewFolder returns the Store in root, which is made when it is needed first. Expired records are removed when their
// owner is listed.
func NewFolder(root string, ttl time.Duration) *Folder { return &Folder{root, ttl} }

// meta is the first line of a record's file; the body follows.
type meta struct {
	Version int64
	Expires time.Time
	Head    []byte
	Deleted bool `json:",omitempty"`
}

// List implements Store.
func (f *Folder) List(ctx context.Context, owner string) ([]Record, error) {
	var records []Record
	err := f.locked(ctx, owner, func(dir string) error {
		files, err := filepath.Glob(filepath.Join(dir, "*.record"))
		if err != nil {
			return err
		}
		for _, path := range files {
			m, _, err := readRecord(path)
			if err != nil {
				return err
			}
			if m.Version == 0 {
				_ = os.Remove(path) // else the next time
				continue
			}
			name := filepath.Base(path)
			records = append(records, Record{name[:len(name)-len(".record")], m.Version, m.Head, m.Deleted})
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nobody who only asks leaves a folder behind
	}
	return records, err
}

// Load implements Store.
func (f *Folder) Load(ctx context.Context, owner, name string, version int64) (body []byte, err error) {
	err = f.locked(ctx, owner, func(dir string) error {
		m, text, err := readRecord(recordPath(dir, name))
		if err != nil {
			return err
		}
		if m.Version != version || m.Deleted {
			return ErrConflict
		}
		body = text
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrConflict
	}
	return body, err
}

// Save implements Store.
func (f *Folder) Save(ctx context.Context, owner string, r Record, body []byte) error {
	if err := os.MkdirAll(f.dir(owner), 0o700); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return f.locked(ctx, owner, func(dir string) error {
		path := recordPath(dir, r.Name)
		present, _, err := readRecord(path)
		if err != nil {
			return err
		}
		if !follows(r, present.Version, present.Deleted) {
			return ErrConflict
		}
		return writeRecord(path, meta{Version: r.Version, Expires: time.Now().Add(f.ttl), Head: r.Head}, body)
	})
}

// Delete implements Store.
func (f *Folder) Delete(ctx context.Context, owner, name string) error {
	err := f.locked(ctx, owner, func(dir string) error {
		path := recordPath(dir, name)
		present, _, err := readRecord(path)
		if err != nil || present.Version == 0 || present.Deleted {
			return err
		}
		return writeRecord(path, meta{Version: present.Version, Expires: time.Now().Add(f.ttl), Deleted: true}, nil)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f *Folder) dir(owner string) string { return filepath.Join(f.root, owner) }

// lockRetry is how often a lock is tried that another process has.
const lockRetry = 10 * time.Millisecond

// locked runs f while no other process does the same for the owner. Its error is fs.ErrNotExist where nothing was ever saved.
func (f *Folder) locked(ctx context.Context, owner string, do func(dir string) error) (err error) {
	dir := f.dir(owner)
	held, err := os.Open(dir) // #nosec G304 -- made of hashes
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer held.Close()
	for {
		err := unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return do(dir)
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("archive: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("archive: %w", context.Cause(ctx))
		case <-time.After(lockRetry):
		}
	}
}

func recordPath(dir, name string) string { return filepath.Join(dir, name+".record") }

func writeRecord(path string, m meta, body []byte) error {
	first, err := json.Marshal(m)
	if err != nil {
		return err
	}
	next := path + ".next"
	if err := os.WriteFile(next, append(append(first, '\n'), body...), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// readRecord returns version 0 where there is no such file, or an expired one, which is as good as gone.
func readRecord(path string) (m meta, body []byte, err error) {
	text, err := os.ReadFile(path) // #nosec G304 -- made of hashes
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil, nil
	}
	if err != nil {
		return m, nil, fmt.Errorf("archive: %w", err)
	}
	first, body, _ := bytes.Cut(text, []byte("\n"))
	if err := json.Unmarshal(first, &m); err != nil {
		return m, nil, fmt.Errorf("archive: %s: %w", filepath.Base(path), err)
	}
	if time.Now().After(m.Expires) {
		m.Version, m.Deleted = 0, false
	}
	return m, body, nil
}
