// Package vault is what is kept of conversations beyond their processes and their instance: in an archive, sealed with
// keys that only their user's token gives, one version after the other. It knows what a record looks like and who can
// read it; when a conversation is saved, fetched or given up is for its callers to decide.
//
// A record has two parts: a small Manifest, as all of a user's are read at once, and a Body, which is read when the
// conversation goes on.
package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/seal"
)

// ListPause is how long nobody is listed after the archive has failed to list anybody, so that an outage doesn't cost
// every new user its time-out.
const ListPause = 5 * time.Second

// ErrPaused says that the archive wasn't asked, as it has failed to list anybody within the last ListPause.
var ErrPaused = errors.New("vault: the archive was away just now")

// The parts of a record, as they have been sealed since the first release.
const (
	manifestPart = "head"
	bodyPart     = "body"
)

// Vault is what is kept of all users. Its methods may be called concurrently. Their errors are the archive's: all but
// archive.ErrConflict and archive.ErrPermanent are worth another try.
type Vault struct {
	store  archive.Store
	failed atomic.Pointer[time.Time] // when the archive could not list anybody
}

// New returns a vault in an archive.
func New(store archive.Store) *Vault { return &Vault{store: store} }

// Connect makes the archive's connection, which the first user would wait for otherwise.
func (v *Vault) Connect(ctx context.Context) error {
	_, err := v.store.List(ctx, "nobody")
	return err
}

// List returns what there is of a user. The error is ErrPaused for a while after one that was worth another try.
func (v *Vault) List(ctx context.Context, keys *seal.Keys) (Listing, error) {
	if at := v.failed.Load(); at != nil && time.Since(*at) < ListPause {
		return Listing{}, ErrPaused
	}
	records, err := v.store.List(ctx, keys.Owner())
	if err != nil {
		if v.Connect(ctx) != nil { // else it is what this user has that takes too long
			now := time.Now()
			v.failed.Store(&now)
		}
		return Listing{}, err
	}
	return newListing(keys, records), nil
}

// Load returns what is kept of a conversation beside its manifest. The error is archive.ErrConflict if the version
// isn't the present one any more, and archive.ErrPermanent if what is kept is damaged.
func (v *Vault) Load(ctx context.Context, keys *seal.Keys, session string, version int64) (Body, error) {
	name := keys.Name(session)
	sealed, err := v.store.Load(ctx, keys.Owner(), name, version)
	if err != nil {
		return Body{}, err
	}
	var b Body
	packed, err := keys.Open(sealed, seal.Place{Name: name, Version: version, Part: bodyPart})
	if err == nil {
		b, err = unpack(packed)
	}
	if err != nil {
		return Body{}, fmt.Errorf("%w: %w", archive.ErrPermanent, err)
	}
	return b, nil
}

// Save stores a version of a conversation: the one after the present version, or the first. The settings are those of
// the manifest, whatever the body was loaded with. The error is archive.ErrConflict if another version is in the way.
func (v *Vault) Save(ctx context.Context, keys *seal.Keys, m Manifest, version int64, b Body) error {
	packed := b.transcript
	if m.Settings.IsLarge() {
		packed = pack(m.Settings, packed)
		m.Settings, m.SettingsInBody = Settings{}, true
	}
	text, err := json.Marshal(m.stored())
	if err != nil {
		return err
	}
	name := keys.Name(m.Session)
	at := seal.Place{Name: name, Version: version, Part: manifestPart}
	r := archive.Record{Name: name, Version: version, Head: keys.Seal(text, at)}
	at.Part = bodyPart
	return v.store.Save(ctx, keys.Owner(), r, keys.Seal(packed, at))
}

// Drop removes a conversation as if it had expired, unless another version than this one is kept by now.
func (v *Vault) Drop(ctx context.Context, keys *seal.Keys, session string, version int64) error {
	return v.store.Drop(ctx, keys.Owner(), keys.Name(session), version)
}

// Delete removes all versions of a conversation, if there are any. What is kept then is only that it was deleted.
func (v *Vault) Delete(ctx context.Context, keys *seal.Keys, session string) error {
	return v.store.Delete(ctx, keys.Owner(), keys.Name(session))
}
