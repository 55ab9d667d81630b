package snapshot

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"

	"claudepool/infra/database"
)

// collection holds one document per instance. A TTL policy on expires_at removes what a crash leaves.
const collection = "claudepool_instances"

const (
	// callTimeout bounds each call: the client library itself tries again for as long as it is let.
	callTimeout = 5 * time.Second
)

// Firestore is a Store for many processes. None of its calls takes longer than 5 s.
type Firestore struct{ client *firestore.Client }

// NewFirestore connects to a database, or to the emulator where FIRESTORE_EMULATOR_HOST says so. It doesn't wait for a
// connection. The end of ctx doesn't end what was begun with it. The caller has to close it.
func NewFirestore(ctx context.Context, project, databaseID string) (*Firestore, error) {
	client, err := database.Connect(ctx, project, databaseID)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return &Firestore{client}, nil
}

// Close ends the connection.
func (f *Firestore) Close() error { return f.client.Close() }

// pace is that of a database that is paid by the call.
var pace = Pace{Write: 2 * time.Second, Read: time.Second}

// Pace bounds what snapshots cost.
func (f *Firestore) Pace() Pace { return pace }

// Put stores a snapshot.
func (f *Firestore) Put(ctx context.Context, i Instance) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := f.client.Collection(collection).Doc(i.ID).Set(ctx, i)
	return err
}

// Delete forgets an instance.
func (f *Firestore) Delete(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := f.client.Collection(collection).Doc(id).Delete(ctx)
	return err
}

// List returns the snapshots that have not expired. A document it can't read is left out: one that another version
// wrote must not hide the others.
func (f *Firestore) List(ctx context.Context) ([]Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	docs, err := f.client.Collection(collection).Documents(ctx).GetAll() // expires_at has no index: see terraform
	if err != nil {
		return nil, err
	}
	list := make([]Instance, 0, len(docs))
	for _, doc := range docs {
		var i Instance
		if err := doc.DataTo(&i); err == nil && time.Now().Before(i.ExpiresAt) {
			list = append(list, i)
		}
	}
	return list, nil
}

// Open returns the store for a project: Firestore, or where there is neither a project nor an emulator one that only
// this process sees. The second result closes it.
func Open(ctx context.Context, project, databaseID string) (Store, func() error, error) {
	project = database.Project(project)
	if project == "" {
		return NewMemory(), func() error { return nil }, nil
	}
	f, err := NewFirestore(ctx, project, databaseID)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}
