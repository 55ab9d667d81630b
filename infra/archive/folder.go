package archive

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Folder is a Store in a folder, for the instances of one machine.
type Folder struct {
	root string
	ttl  time.Duration
}

// tidyEvery is how often what has expired is removed.
const tidyEvery = time.Hour

// NewFolder returns the Store in root, which is made when it is needed first. Expired records are removed when their
// owner is listed.
func NewFolder(root string, ttl time.Duration) *Folder { return &Folder{root, ttl} }

// keepTidy removes what has expired now and then, until the returned function is called.
func (f *Folder) keepTidy(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(tidyEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			f.tidy(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return func() error {
		cancel()
		work.Wait()
		return nil
	}
}

// tidy removes what has expired.
func (f *Folder) tidy(ctx context.Context) {
	owners, _ := os.ReadDir(f.root) // what can't be read now will be the next time
	for _, owner := range owners {
		if ctx.Err() == nil && owner.IsDir() {
			_, _ = f.List(ctx, owner.Name())
		}
	}
}

// meta is the first line of a record's file; the body follows.
type meta struct {
	Version int64
	Expires time.Time
	Head    []byte
	Deleted bool `json:",omitempty"`
}

// List implements Store. It removes what is of no use, and the owner's folder with it.
func (f *Folder) List(ctx context.Context, owner string) ([]Record, error) {
	var records []Record
	err := f.locked(ctx, owner, func(dir string) error {
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, file := range files {
			path := filepath.Join(dir, file.Name())
			name, isRecord := strings.CutSuffix(file.Name(), recordSuffix)
			if !isRecord {
				_ = os.Remove(path) // somebody died while writing it
				continue
			}
			m, err := readMeta(path)
			if err != nil {
				return err
			}
			if m.Version == 0 {
				_ = os.Remove(path) // else the next time
				continue
			}
			records = append(records, Record{name, m.Version, m.Head, m.Deleted})
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a look leaves no folder behind
	}
	return records, failed(err)
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
	return body, failed(err)
}

// Save implements Store.
func (f *Folder) Save(ctx context.Context, owner string, r Record, body []byte) error {
	if err := checkHead(r); err != nil {
		return err
	}
	save := func(dir string) error {
		path := recordPath(dir, r.Name)
		present, err := readMeta(path)
		if err != nil {
			return err
		}
		if !follows(r, present.Version, present.Deleted) {
			return ErrConflict
		}
		return writeRecord(path, meta{Version: r.Version, Expires: time.Now().Add(f.ttl), Head: r.Head}, body)
	}
	for ctx.Err() == nil {
		if err := os.MkdirAll(f.dir(owner), 0o700); err != nil {
			return failed(err)
		}
		if err := f.locked(ctx, owner, save); !errors.Is(err, errRemoved) {
			return failed(err)
		}
	}
	return failed(context.Cause(ctx))
}

// Delete implements Store.
func (f *Folder) Delete(ctx context.Context, owner, name string) error {
	err := f.locked(ctx, owner, func(dir string) error {
		path := recordPath(dir, name)
		present, err := readMeta(path)
		if err != nil || present.Version == 0 || present.Deleted {
			return err
		}
		return writeRecord(path, meta{Version: present.Version, Expires: time.Now().Add(f.ttl), Deleted: true}, nil)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return failed(err)
}

// Drop implements Store.
func (f *Folder) Drop(ctx context.Context, owner, name string, version int64) error {
	err := f.locked(ctx, owner, func(dir string) error {
		path := recordPath(dir, name)
		present, err := readMeta(path)
		if err != nil || present.Version != version || present.Deleted {
			return err
		}
		return os.Remove(path)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return failed(err)
}

func (f *Folder) dir(owner string) string { return filepath.Join(f.root, owner) }

// lockRetry is how often a lock is tried that another process has.
const lockRetry = 10 * time.Millisecond

// errRemoved says that an owner's folder is not there, or not any more.
var errRemoved = fmt.Errorf("archive: removed: %w", fs.ErrNotExist)

// locked runs do while no other process does the same for the owner. Its error is errRemoved where nothing is saved.
// An empty folder goes with its last record.
func (f *Folder) locked(ctx context.Context, owner string, do func(dir string) error) (err error) {
	dir := f.dir(owner)
	held, err := os.Open(dir) // #nosec G304 -- made of hashes
	if errors.Is(err, fs.ErrNotExist) {
		return errRemoved
	}
	if err != nil {
		return err
	}
	defer held.Close()
	if err := lock(ctx, held); err != nil {
		return err
	}
	if !isStill(held, dir) {
		return errRemoved
	}
	defer os.Remove(dir) // fails while anything is in it
	return do(dir)
}

// lock waits for the lock of a folder.
func lock(ctx context.Context, dir *os.File) error {
	for {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockRetry):
		}
	}
}

// isStill reports whether the folder that is held is the one at the path.
func isStill(held *os.File, path string) bool {
	mine, err := held.Stat()
	if err != nil {
		return false
	}
	present, err := os.Stat(path)
	return err == nil && os.SameFile(mine, present)
}

const recordSuffix = ".record"

func recordPath(dir, name string) string { return filepath.Join(dir, name+recordSuffix) }

func writeRecord(path string, m meta, body []byte) error {
	first, err := json.Marshal(m)
	if err != nil {
		return err
	}
	next := path + ".next"
	err = os.WriteFile(next, append(append(first, '\n'), body...), 0o600)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		_ = os.Remove(next) // else when its owner is listed
	}
	return err
}

// readMeta returns version 0 where there is no such file, or an expired one, which is as good as gone.
func readMeta(path string) (m meta, err error) {
	file, err := os.Open(path) // #nosec G304 -- made of hashes
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	defer file.Close()
	return readFirst(bufio.NewReader(file))
}

// readRecord is readMeta with the body.
func readRecord(path string) (m meta, body []byte, err error) {
	text, err := os.ReadFile(path) // #nosec G304 -- made of hashes
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil, nil
	}
	if err != nil {
		return m, nil, err
	}
	b := bytes.NewBuffer(text)
	m, err = readFirst(b)
	return m, b.Bytes(), err
}

// readFirst reads a record's first line. One that isn't whole, as after a loss of power, is as good as gone, too.
func readFirst(r interface{ ReadBytes(byte) ([]byte, error) }) (m meta, err error) {
	first, err := r.ReadBytes('\n')
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return meta{}, err
	case err != nil, json.Unmarshal(first, &m) != nil:
		return meta{}, nil
	case time.Now().After(m.Expires):
		m.Version, m.Deleted = 0, false
	}
	return m, nil
}
