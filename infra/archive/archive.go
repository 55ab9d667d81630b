// Package archive keeps conversations beyond the life of the instance that holds them. What it is given is sealed and
// named by hashes: neither texts nor tokens nor whose a conversation is can be told from what it keeps.
package archive

import (
	"context"
	"fmt"
	"time"

	"claudepool/infra/database"
)

// MaxHead is how many bytes a Record's Head may have: a Firestore document holds 1 MiB.
const MaxHead = 900 << 10

// Record is one conversation as the archive has it, without its body.
type Record struct {
	Name    string // unique for its owner; lower-case hex, as owners are
	Version int64  // 1 for the first
	Head    []byte // small, what is needed to find the right conversation; at most MaxHead
	Deleted bool   // all that is left of it: whichever instance still has a copy is to delete it
}

// Store keeps the records of owners. All methods may be called concurrently, and by many processes; none takes longer
// than 10 s. Errors other than ErrConflict and ErrPermanent are worth another try.
type Store interface {
	// List returns an owner's records that have not expired, the deleted ones too.
	List(ctx context.Context, owner string) ([]Record, error)
	// Load returns the body of a record, ErrConflict if that version isn't the present one.
	Load(ctx context.Context, owner, name string, version int64) ([]byte, error)
	// Save stores the version that follows the present one, the first one where a record was deleted, or any where there
	// is none, as when the archive was lost. ErrConflict says that somebody else was faster. It begins the record's life
	// anew. What has failed leaves nothing, and is not stored any more once Delete has been called.
	Save(ctx context.Context, owner string, r Record, body []byte) error
	// Delete forgets a record, if there is one, but for its name and that it was deleted.
	Delete(ctx context.Context, owner, name string) error
	// Drop removes a record as if it had expired, unless another version than this one is there by now.
	Drop(ctx context.Context, owner, name string, version int64) error
}

// follows reports whether a record may be stored where the present version is there, 0 if none is.
func follows(r Record, present int64, deleted bool) bool {
	if deleted {
		return r.Version == 1
	}
	return present == 0 || present == r.Version-1
}

// Open returns the Store for a folder if one is named, else for a Firestore project, else nil: then conversations end
// with their instance. The second result closes it. Records live for ttl after they were saved.
func Open(ctx context.Context, folder, project, databaseID string, ttl time.Duration) (Store, func() error, error) {
	nothing := func() error { return nil }
	project = database.Project(project)
	switch {
	case ttl == 0:
		return nil, nothing, nil
	case folder != "":
		f := NewFolder(folder, ttl)
		return f, f.keepTidy(ctx), nil
	case project != "":
		client, err := database.Connect(ctx, project, databaseID)
		if err != nil {
			return nil, nil, fmt.Errorf("archive: %w", err)
		}
		return NewFirestore(client, ttl), client.Close, nil
	}
	return nil, nothing, nil
}
