package pool

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
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
func (v *vault) find(ctx context.Context, keys *seal.Keys, session string, version int64) (record archive.Record, found bool, err error) {
	records, err := v.store.List(ctx, keys.Owner())
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

// load returns a compressed transcript, and the settings that are kept before it, nil if they are in the head. The error
// is archive.ErrPermanent if what is kept is damaged.
func (v *vault) load(ctx context.Context, keys *seal.Keys, session string, version int64) (zipped []byte, apart *settingsRecord, err error) {
	name := keys.Name(session)
	sealed, err := v.store.Load(ctx, keys.Owner(), name, version)
	if err != nil {
		return nil, nil, err
	}
	body, err := keys.Open(sealed, seal.Place{Name: name, Version: version, Part: "body"})
	if err == nil {
		zipped, apart, err = unpack(body)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", archive.ErrPermanent, err)
	}
	return zipped, apart, err
}

// save seals a conversation and stores it. The error is the archive's.
func (v *vault) save(ctx context.Context, keys *seal.Keys, h head, version int64, zipped []byte) error {
	if h.Settings.isLarge() {
		zipped = pack(h.Settings, zipped)
		h.Settings, h.Apart = settingsRecord{}, true
	}
	told, err := json.Marshal(h)
	if err != nil {
		return err
	}
	name := keys.Name(h.Session)
	r := archive.Record{Name: name, Version: version, Head: keys.Seal(told, seal.Place{Name: name, Version: version, Part: "head"})}
	body := keys.Seal(zipped, seal.Place{Name: name, Version: version, Part: "body"})
	return v.store.Save(ctx, keys.Owner(), r, body)
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

func zip(text []byte) []byte { return zipNamed("", text) }

// settingsName is what marks settings before a transcript.
const settingsName = "settings"

// pack puts settings before a transcript, each compressed by itself.
func pack(s settingsRecord, zipped []byte) []byte {
	text, _ := json.Marshal(s) // of texts and valid JSON: can't fail
	// A line of their own: a release that knows no settings apart takes them for one of the transcript's.
	return append(zipNamed(settingsName, append(text, '\n')), zipped...)
}

// unpack undoes pack. Without settings before it, a transcript is returned as it is.
func unpack(body []byte) (zipped []byte, apart *settingsRecord, err error) {
	rest := bytes.NewReader(body)
	r, err := gzip.NewReader(rest)
	if err != nil || r.Name != settingsName {
		return body, nil, err
	}
	r.Multistream(false) // leaves the transcript in rest
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, nil, err
	}
	apart = &settingsRecord{}
	return body[len(body)-rest.Len():], apart, json.Unmarshal(text, apart)
}

func zipNamed(name string, text []byte) []byte {
	var b bytes.Buffer
	w := zippers.Get().(*gzip.Writer)
	defer zippers.Put(w)
	w.Reset(&b)
	w.Name = name
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
