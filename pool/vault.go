package pool

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/seal"
)

// vault is what is kept of conversations beyond their processes and their instance, sealed. Its methods may be called
// concurrently. What has to be written is written although the pool is closing.
type vault struct {
	store  archive.Store
	log    *slog.Logger
	life   context.Context
	failed atomic.Pointer[time.Time] // when the archive could not tell what it has
}

func newVault(life context.Context, opts Options) *vault {
	return &vault{store: opts.Archive, log: opts.Logger, life: life}
}

// greet makes the archive's connection, which the first user else would wait for.
func (v *vault) greet() {
	if _, err := v.store.List(v.life, "nobody"); err != nil {
		v.log.Warn("the archive can't be read", "error", err)
	}
}

// list returns what there is of a user. After a failure nobody is asked for recallPause.
func (v *vault) list(keys *seal.Keys) ([]archive.Record, error) {
	if at := v.failed.Load(); at != nil && time.Since(*at) < recallPause {
		return nil, errArchiveAway
	}
	records, err := v.store.List(v.life, keys.Owner())
	if err != nil {
		now := time.Now()
		v.failed.Store(&now)
		v.log.Warn("the archive can't be read, conversations of other instances are unknown", "error", err)
	}
	return records, err
}

// find returns the record of one conversation in a certain version, if there is one.
func (v *vault) find(keys *seal.Keys, session string, version int64) (record archive.Record, found bool, err error) {
	records, err := v.store.List(context.WithoutCancel(v.life), keys.Owner())
	if err != nil {
		return record, false, err
	}
	for _, r := range records {
		if r.Name == keys.Name(session) && r.Version == version && !r.Deleted {
			return r, true, nil
		}
	}
	return record, false, nil
}

// load returns a sealed transcript.
func (v *vault) load(ctx context.Context, keys *seal.Keys, name string, version int64) ([]byte, error) {
	return v.store.Load(ctx, keys.Owner(), name, version)
}

// save seals a conversation and stores it. The error is archive.ErrConflict if the version is there.
func (v *vault) save(keys *seal.Keys, h *head, version int64, zipped []byte) error {
	told, err := json.Marshal(h)
	if err != nil {
		return err
	}
	name := keys.Name(h.Session)
	r := archive.Record{Name: name, Version: version, Head: keys.Seal(told, seal.Place{Name: name, Version: version, Part: "head"})}
	body := keys.Seal(zipped, seal.Place{Name: name, Version: version, Part: "body"})
	return v.store.Save(context.WithoutCancel(v.life), keys.Owner(), r, body)
}

// delete removes what there is of a conversation.
func (v *vault) delete(keys *seal.Keys, session string) error {
	return v.store.Delete(context.WithoutCancel(v.life), keys.Owner(), keys.Name(session))
}

// zippers keeps gzip writers, each of which is more than a megabyte.
var zippers = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level exists
	return w
}}

func zip(text []byte) []byte {
	var b bytes.Buffer
	w := zippers.Get().(*gzip.Writer)
	defer zippers.Put(w)
	w.Reset(&b)
	_, _ = w.Write(text) // to memory
	_ = w.Close()
	return b.Bytes()
}

func unzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
