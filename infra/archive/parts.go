package archive

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"
	"golang.org/x/sync/errgroup"
)

// part is a piece of a body, in a document of its own.
type part struct {
	Bytes   []byte    `firestore:"bytes"`
	Expires time.Time `firestore:"expires_at"`
}

func partOf(doc *firestore.DocumentRef, body string, i int) *firestore.DocumentRef {
	return doc.Collection(parts).Doc(fmt.Sprintf("%s-%04d", body, i))
}

// discard removes the parts of a document, or leaves them to the TTL policy.
func (f *Firestore) discard(ctx context.Context, doc *firestore.DocumentRef, d document) {
	_ = each(ctx, d.Parts, func(ctx context.Context, i int) error {
		_, err := partOf(doc, d.Body, i).Delete(ctx)
		return err
	})
}

// discardStrays removes what calls have left that could not tidy up after themselves, of a document that names no
// parts.
func (f *Firestore) discardStrays(ctx context.Context, doc *firestore.DocumentRef) {
	left, err := doc.Collection(parts).Select().Documents(ctx).GetAll()
	if err != nil {
		return
	}
	_ = each(ctx, len(left), func(ctx context.Context, i int) error {
		if left[i].ReadTime.Sub(left[i].CreateTime) < f.strayAge {
			return nil
		}
		_, err := left[i].Ref.Delete(ctx)
		return err
	})
}

// each runs do for all numbers below n, a few at once.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}
