package snapshot

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"
)

// collection holds one document per instance. A TTL policy on expires_at removes what a crash leaves.
const collection = "claudepool_instances"

// Firestore is a Store for many processes.
type Firestore struct{ client *firestore.Client }

// NewFirestore connects to a database, or to the emulator where FIRESTORE_EMULATOR_HOST says so. It doesn't wait for a
// connection. The caller has to close it.
func NewFirestore(ctx context.Context, project, database string) (*Firestore, error) {
	client, err := firestore.NewClientWithDatabase(ctx, project, database)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return &Firestore{client}, nil
}

// Close ends the connection.
func (f *Firestore) Close() error { return f.client.Close() }

// Put stores a snapshot.
func (f *Firestore) Put(ctx context.Context, i Instance) error {
	_, err := f.client.Collection(collection).Doc(i.ID).Set(ctx, i)
	return err
}

// Delete forgets an instance.
func (f *Firestore) Delete(ctx context.Context, id string) error {
	_, err := f.client.Collection(collection).Doc(id).Delete(ctx)
	return err
}

// List returns the snapshots that have not expired.
func (f *Firestore) List(ctx context.Context) ([]Instance, error) {
	docs, err := f.client.Collection(collection).Where("expires_at", ">", time.Now()).Documents(ctx).GetAll()
	if err != nil {
		return nil, err
	}
	list := make([]Instance, 0, len(docs))
	for _, doc := range docs {
		var i Instance
		if err := doc.DataTo(&i); err != nil {
			return nil, fmt.Errorf("snapshot: document %s: %w", doc.Ref.ID, err)
		}
		list = append(list, i)
	}
	return list, nil
}

// Open returns the store for a project: Firestore, or where there is no project one that only this process sees.
func Open(ctx context.Context, project, database string) (Store, func() error, error) {
	if project == "" {
		return NewMemory(), func() error { return nil }, nil
	}
	f, err := NewFirestore(ctx, project, database)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}
