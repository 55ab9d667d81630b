package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The collections: one document per conversation, and below it one per part of its body. A TTL policy on expires_at
// of both removes what has expired, and what a save that was cut short left.
const (
	conversations = "claudepool_conversations"
	parts         = "claudepool_parts"
)

const (
	callTimeout = 8 * time.Second
	// tidyTimeout is how long it may take beyond that to remove what is left of a call. The TTL policy removes the rest.
	tidyTimeout = time.Second
	// listTimeout is short since a user's first request waits for it.
	listTimeout = 2 * time.Second
	// partBytes stays below the 1 MiB that a document may have, with room for its name and other fields.
	partBytes = 900 << 10
	// partsAtOnce bounds the memory that a transfer takes in the client library.
	partsAtOnce = 4
	// strayAge is after how long a part that no document names belongs to no call any more.
	strayAge = time.Minute
)

// Firestore is a Store for many machines.
type Firestore struct {
	client      *firestore.Client
	ttl         time.Duration
	strayAge    time.Duration
	tidyTimeout time.Duration
}

// document is what stands in conversations.
type document struct {
	Owner   string    `firestore:"owner"`
	Name    string    `firestore:"name"`
	Version int64     `firestore:"version"`
	Head    []byte    `firestore:"head"`
	Body    string    `firestore:"body"` // what the ids of its parts begin with
	Parts   int       `firestore:"parts"`
	Expires time.Time `firestore:"expires_at"`
	Deleted bool      `firestore:"deleted"`
}

// NewFirestore keeps records in a client's database. The client remains the caller's to close.
func NewFirestore(client *firestore.Client, ttl time.Duration) *Firestore {
	return &Firestore{client, ttl, strayAge, tidyTimeout}
}

func (f *Firestore) doc(owner, name string) *firestore.DocumentRef {
	return f.client.Collection(conversations).Doc(owner + "-" + name)
}

// List implements Store.
func (f *Firestore) List(ctx context.Context, owner string) ([]Record, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	docs, err := f.client.Collection(conversations).Where("owner", "==", owner).Documents(ctx).GetAll()
	if err != nil {
		return nil, failed(err)
	}
	var records []Record
	for _, doc := range docs {
		var d document
		if err := doc.DataTo(&d); err != nil {
			return nil, failed(err)
		}
		if time.Now().Before(d.Expires) {
			records = append(records, Record{d.Name, d.Version, d.Head, d.Deleted})
		}
	}
	return records, nil
}

// Load implements Store.
func (f *Firestore) Load(ctx context.Context, owner, name string, version int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	doc := f.doc(owner, name)
	d, err := read(doc.Get(ctx))
	if err != nil {
		return nil, failed(err)
	}
	if d.Version != version || d.Deleted {
		return nil, ErrConflict
	}
	all := make([][]byte, d.Parts)
	err = each(ctx, d.Parts, func(ctx context.Context, i int) error {
		snapshot, err := partOf(doc, d.Body, i).Get(ctx)
		if err != nil {
			return err
		}
		var p part
		err = snapshot.DataTo(&p)
		all[i] = p.Bytes
		return err
	})
	if status.Code(err) == codes.NotFound {
		if now, err := read(doc.Get(ctx)); err != nil || now.Body != d.Body {
			return nil, ErrConflict // replaced since
		}
		return nil, fmt.Errorf("%w: a part is missing", ErrPermanent)
	}
	return bytes.Join(all, nil), failed(err)
}

// Save implements Store. The parts come first, under names of their own, and count only once the document names them.
func (f *Firestore) Save(ctx context.Context, owner string, r Record, body []byte) error {
	if err := checkHead(r); err != nil {
		return err
	}
	pieces := slices.Collect(slices.Chunk(body, partBytes))
	doc, next := f.doc(owner, r.Name), document{Owner: owner, Name: r.Name, Version: r.Version, Head: r.Head,
		Body:  rand.Text(),
		Parts: len(pieces), Expires: time.Now().Add(f.ttl)}
	calling, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	useless := next
	err := each(calling, len(pieces), func(ctx context.Context, i int) error {
		_, err := partOf(doc, next.Body, i).Set(ctx, part{pieces[i], next.Expires})
		return err
	})
	if err == nil {
		useless, err = f.replace(calling, doc, r, next)
	}
	tidying, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.tidyTimeout)
	defer cancel()
	f.discard(tidying, doc, useless)
	return failed(err)
}

// replace has the document name the next body. What is of no use then is the one before, or after an error the next.
func (f *Firestore) replace(ctx context.Context, doc *firestore.DocumentRef, r Record, next document) (useless document,
	err error) {
	var before document
	err = f.client.RunTransaction(ctx, func(_ context.Context, t *firestore.Transaction) error {
		present, err := read(t.Get(doc))
		if err != nil || present.Body == next.Body { // an attempt got through whose answer was lost
			return err
		}
		before = present
		if !follows(r, before.Version, before.Deleted) {
			return ErrConflict
		}
		return t.Set(doc, next)
	})
	switch {
	case err == nil:
		return before, nil
	case errors.Is(err, ErrConflict):
		return next, err
	}
	// Of any other error it isn't known: the client library asks again, and what is refused then may have got through
	// before.
	switch stored, unknown := f.settle(ctx, doc, next); {
	case unknown != nil: // the TTL policy removes what is useless
		return document{}, err
	case stored:
		return before, nil
	}
	return next, err
}

// settle finds out whether the document names a body although no answer has said so. If it doesn't, it never will: the
// document is written again as it is, which no attempt survives that is still under way.
func (f *Firestore) settle(ctx context.Context, doc *firestore.DocumentRef, next document) (stored bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.tidyTimeout)
	defer cancel()
	err = f.client.RunTransaction(ctx, func(_ context.Context, t *firestore.Transaction) error {
		present, err := read(t.Get(doc))
		stored = present.Body == next.Body
		if err != nil || stored {
			return err
		}
		if present.Owner == "" {
			present = none(next.Owner, next.Name)
		}
		return t.Set(doc, present)
	})
	return stored, err
}

// none is a document that is as good as none: it has expired.
func none(owner, name string) document {
	return document{Owner: owner, Name: name, Expires: time.Unix(0, 0)}
}

// Delete implements Store.
func (f *Firestore) Delete(ctx context.Context, owner, name string) error {
	doc := f.doc(owner, name)
	return f.end(ctx, doc, func(t *firestore.Transaction, present document) (isEnded bool, err error) {
		switch {
		case present.Deleted:
			return false, nil
		case present.Version == 0:
			return true, t.Set(doc, none(owner, name)) // no save survives that that is still under way
		}
		return true, t.Set(doc, document{Owner: owner, Name: name, Version: present.Version, Expires: time.Now().Add(f.ttl),
			Deleted: true})
	})
}

// Drop implements Store.
func (f *Firestore) Drop(ctx context.Context, owner, name string, version int64) error {
	doc := f.doc(owner, name)
	return f.end(ctx, doc, func(t *firestore.Transaction, present document) (isEnded bool, err error) {
		if present.Version != version || present.Deleted {
			return false, nil
		}
		return true, t.Delete(doc)
	})
}

// end has a transaction end what the document is at present, and removes the parts of what it says has ended.
func (f *Firestore) end(ctx context.Context, doc *firestore.DocumentRef,
	how func(t *firestore.Transaction, present document) (isEnded bool, err error)) error {
	calling, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var ended document
	err := f.client.RunTransaction(calling, func(_ context.Context, t *firestore.Transaction) error {
		present, err := read(t.Get(doc))
		if err != nil {
			return err
		}
		isEnded, err := how(t, present)
		if ended = (document{}); isEnded {
			ended = present
		}
		return err
	})
	if err != nil {
		return failed(err)
	}
	tidying, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.tidyTimeout)
	defer cancel()
	f.discard(tidying, doc, ended)
	f.discardStrays(tidying, doc)
	return nil
}

// read returns the document, with version 0 where there is none or an expired one, which is as good as gone.
func read(snapshot *firestore.DocumentSnapshot, err error) (d document, _ error) {
	if status.Code(err) == codes.NotFound {
		return d, nil
	}
	if err == nil {
		err = snapshot.DataTo(&d)
	}
	if err == nil && time.Now().After(d.Expires) {
		d.Version, d.Deleted = 0, false
	}
	return d, err
}
