package vault

import (
	"context"
	"errors"

	"claudepool/infra/archive"
	"claudepool/pool/seal"
)

// Writer saves one conversation again and again. The answer to a save may get lost: then the version that is in the way
// of the next save is the writer's own, which it finds out. It is for one goroutine.
type Writer struct {
	vault  *Vault
	keys   *seal.Keys
	unsure map[string]bool // good turns of what may have been saved, though no answer said so
}

// NewWriter returns a writer for one of a user's conversations.
func (v *Vault) NewWriter(keys *seal.Keys) *Writer {
	return &Writer{vault: v, keys: keys, unsure: make(map[string]bool)}
}

// Save is Vault.Save. Without an error the version is there. isNewest is false if it is that of an earlier Save whose
// answer was lost: then what is to be saved now has still to be, as the next version.
func (w *Writer) Save(ctx context.Context, m Manifest, version int64, b Body) (isNewest bool, err error) {
	isNewest = true
	err = w.vault.Save(ctx, w.keys, m, version, b)
	if errors.Is(err, archive.ErrConflict) && len(w.unsure) > 0 {
		isNewest = false
		err = w.confirm(ctx, m.Session, version)
	}
	switch {
	case err == nil:
		clear(w.unsure)
	case errors.Is(err, archive.ErrConflict), errors.Is(err, archive.ErrPermanent):
	default:
		w.unsure[m.GoodTurn] = true
	}
	return isNewest, err
}

// Present is the version that the archive has of a conversation, 0 if it has none. The error is archive.ErrConflict if
// the conversation was deleted.
func (w *Writer) Present(ctx context.Context, session string) (version int64, err error) {
	r, err := w.find(ctx, session)
	if r.Deleted {
		err = archive.ErrConflict
	}
	return r.Version, err
}

// confirm finds out whether the version that is in the way is the writer's own. The error is archive.ErrConflict if it
// isn't.
func (w *Writer) confirm(ctx context.Context, session string, version int64) error {
	r, err := w.find(ctx, session)
	if err != nil {
		return err
	}
	if m, err := openManifest(w.keys, r); err == nil && r.Version == version && w.unsure[m.GoodTurn] {
		return nil
	}
	return archive.ErrConflict
}

// find returns what the archive has of a conversation, an empty record if that is nothing.
func (w *Writer) find(ctx context.Context, session string) (archive.Record, error) {
	records, err := w.vault.store.List(ctx, w.keys.Owner())
	for _, r := range records {
		if r.Name == w.keys.Name(session) {
			return r, err
		}
	}
	return archive.Record{}, err
}
