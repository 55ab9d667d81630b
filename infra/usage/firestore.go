package usage

import (
	"context"
	"time"

	"cloud.google.com/go/firestore"

	"claudepool/infra/database"
)

// collection holds a document for each subject's day. A TTL policy on expires_at removes them.
const collection = "claudepool_usage"

const (
	callTimeout = 8 * time.Second
	// pageSize is how many documents are asked for at a time.
	pageSize = 500
)

// Firestore is a Store.
type Firestore struct{ client *firestore.Client }

// Open returns the Store of a project, and what closes it; a nil one where there is neither a project nor an emulator.
func Open(ctx context.Context, project, databaseID string) (Store, func() error, error) {
	project = database.Project(project)
	if project == "" {
		return nil, func() error { return nil }, nil
	}
	client, err := database.Connect(ctx, project, databaseID)
	if err != nil {
		return nil, nil, err
	}
	return &Firestore{client}, client.Close, nil
}

func (f *Firestore) doc(day, subject string) *firestore.DocumentRef {
	return f.client.Collection(collection).Doc(day + "-" + subject)
}

// Put implements Store.
func (f *Firestore) Put(ctx context.Context, r Record) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := f.doc(r.Day, r.Subject).Set(ctx, r)
	return err
}

// Each implements Store. A document that it can't read it leaves out.
func (f *Firestore) Each(ctx context.Context, from string, do func(Record) error) error {
	for after, isLast := from, false; !isLast; {
		docs, err := f.page(ctx, after)
		if err != nil {
			return err
		}
		for _, doc := range docs {
			after = doc.Ref.ID
			var r Record
			if doc.DataTo(&r) != nil || r.Subject == "" {
				continue
			}
			if err := do(r); err != nil {
				return err
			}
		}
		isLast = len(docs) < pageSize
	}
	return nil
}

// page returns the documents that follow an id, which begins with the day.
func (f *Firestore) page(ctx context.Context, after string) ([]*firestore.DocumentSnapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	all := f.client.Collection(collection)
	list := all.OrderBy(firestore.DocumentID, firestore.Asc).StartAfter(all.Doc(after)).Limit(pageSize)
	return list.Documents(ctx).GetAll()
}
