package archive

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"claudepool/infra/testkit/emulator"
	"claudepool/infra/testkit/need"
)

func TestErrors_WhatIsRefusedForGoodIsTold(t *testing.T) {
	for _, err := range []error{
		status.Error(codes.InvalidArgument, "too large"), status.Error(codes.ResourceExhausted,
			"trying to send message larger than max (2 vs. 1)"),
		fmt.Errorf("wrapped: %w", status.Error(codes.InvalidArgument, "")), &fs.PathError{Err: unix.EFBIG},
	} {
		require.ErrorIs(t, failed(err), ErrPermanent, "%v", err)
		require.ErrorIs(t, failed(err), err, "the cause is there for the log")
	}
	for _, err := range []error{
		status.Error(codes.Unavailable, ""), status.Error(codes.DeadlineExceeded, ""), status.Error(codes.Aborted,
			""), status.Error(codes.Internal, ""),
		status.Error(codes.ResourceExhausted, "quota exceeded"), status.Error(codes.Unauthenticated, ""),
		status.Error(codes.PermissionDenied, "an operator can mend it"), status.Error(codes.NotFound,
			"no database"), status.Error(codes.FailedPrecondition, ""),
		&fs.PathError{Err: unix.EACCES}, &fs.PathError{Err: unix.EROFS},
		context.DeadlineExceeded, &fs.PathError{Err: unix.ENOSPC}, &fs.PathError{Err: unix.EIO},
	} {
		require.NotErrorIs(t, failed(err), ErrPermanent, "%v", err)
		require.ErrorIs(t, failed(err), err)
	}
	require.NoError(t, failed(nil))
	require.NotErrorIs(t, failed(ErrConflict), ErrPermanent)
}

func TestStore_AHeadThatIsTooLargeIsRefusedForGoodAndDeletionGoesOn(t *testing.T) {
	stores(t, func(t *testing.T, open func(time.Duration) Store) {
		store := open(time.Hour)
		largest := Record{Name: "c1", Version: 1, Head: bytes.Repeat([]byte("h"), MaxHead)}
		require.NoError(t, store.Save(t.Context(), "ada", largest, []byte("one")))
		tooLarge := Record{Name: "c1", Version: 2, Head: append(largest.Head, 'h')}
		require.ErrorIs(t, store.Save(t.Context(), "ada", tooLarge, make([]byte, 2*partBytes)), ErrPermanent)
		list, err := store.List(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, []Record{largest}, list)
		require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
	})
}

// faulty is a Firestore whose commits of transactions go through commit, which may do without pass.
func faulty(t *testing.T, commit func(ctx context.Context, pass func(context.Context) error) error) *Firestore {
	t.Helper()
	intercept := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker,
		opts ...grpc.CallOption) error {
		if r, ok := req.(*firestorepb.CommitRequest); ok && len(r.Transaction) > 0 {
			return commit(ctx, func(ctx context.Context) error { return invoke(ctx, method, req, reply, cc, opts...) })
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	client, err := firestore.NewClient(t.Context(), fmt.Sprintf("test-%d", time.Now().UnixNano()),
		option.WithEndpoint(emulator.Addr(t)),
		option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		option.WithGRPCDialOption(grpc.WithUnaryInterceptor(intercept)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return &Firestore{client, time.Hour, 0, callTimeout}
}

// left is how many parts there are.
func (f *Firestore) left(t *testing.T) int {
	t.Helper()
	docs, err := f.client.CollectionGroup(parts).Documents(t.Context()).GetAll()
	require.NoError(t, err)
	return len(docs)
}

func TestFirestore_AFailedSaveLeavesNoParts(t *testing.T) {
	for code, permanent := range map[codes.Code]bool{codes.InvalidArgument: true, codes.Internal: false} {
		fail := true
		store := faulty(t, func(ctx context.Context, pass func(context.Context) error) error {
			if fail {
				fail = false
				return status.Error(code, "no")
			}
			return pass(ctx)
		})
		err := store.Save(t.Context(), "ada", record(1), make([]byte, 3*partBytes))
		require.Error(t, err)
		if permanent {
			require.ErrorIs(t, err, ErrPermanent)
		} else {
			require.NotErrorIs(t, err, ErrPermanent)
		}
		require.Zero(t, store.left(t), code)
		list, err := store.List(t.Context(), "ada")
		require.NoError(t, err)
		require.Empty(t, list)
		require.NoError(t, store.Save(t.Context(), "ada", record(1), make([]byte, 3*partBytes)), "it can be saved again")
		require.Equal(t, 3, store.left(t))
	}
}

func TestFirestore_ASaveThatIsGivenUpLeavesNoParts(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	store := faulty(t, func(calling context.Context, pass func(context.Context) error) error {
		if ctx.Err() == nil {
			cancel()
			<-calling.Done()
			return calling.Err()
		}
		return pass(calling)
	})
	require.Error(t, store.Save(ctx, "ada", record(1), make([]byte, 3*partBytes)))
	require.Zero(t, store.left(t))
}

func TestFirestore_ASaveWhoseAnswerWasLostIsFound(t *testing.T) {
	lost := false
	store := faulty(t, func(ctx context.Context, pass func(context.Context) error) error {
		err := pass(ctx)
		if err == nil && !lost {
			lost = true
			return status.Error(codes.Internal, "lost")
		}
		return err
	})
	require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("one")))
	require.True(t, lost)
	body, err := store.Load(t.Context(), "ada", "c1", 1)
	require.NoError(t, err)
	require.Equal(t, "one", string(body))
}

// A commit that was given up may still be on its way. Then nobody is told that all is deleted.
func TestFirestore_ADeletionIsNotOvertakenByASaveUnderWay(t *testing.T) {
	store := faulty(t, func(ctx context.Context, pass func(context.Context) error) error { return pass(ctx) })
	doc := store.doc("ada", "c1")
	next := document{Owner: "ada", Name: "c1", Version: 1, Body: "BODY", Parts: 1, Expires: time.Now().Add(time.Hour)}
	_, err := partOf(doc, next.Body, 0).Set(t.Context(), part{[]byte("one"), next.Expires})
	require.NoError(t, err)
	err = store.client.RunTransaction(t.Context(), func(_ context.Context, tx *firestore.Transaction) error {
		if _, err := read(tx.Get(doc)); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, store.Delete(ctx, "ada", "c1"))
		return tx.Set(doc, next)
	})
	require.NoError(t, err)
	require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
	list, err := store.List(t.Context(), "ada")
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.True(t, list[0].Deleted)
	require.Zero(t, store.left(t))
}

func TestFirestore_ADeletionRemovesWhatFailedSavesHaveLeft(t *testing.T) {
	store := faulty(t, func(ctx context.Context, pass func(context.Context) error) error { return pass(ctx) })
	require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("one")))
	_, err := partOf(store.doc("ada", "c1"), "STRAY", 0).Set(t.Context(), part{[]byte("x"), time.Now().Add(time.Hour)})
	require.NoError(t, err)
	store.strayAge = time.Hour
	require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
	require.Equal(t, 1, store.left(t), "it may be of a save that is under way")
	store.strayAge = 0
	require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
	require.Zero(t, store.left(t))
}

func TestFirestore_ARecordThatHasLostAPartIsDamagedForGood(t *testing.T) {
	store := faulty(t, func(ctx context.Context, pass func(context.Context) error) error { return pass(ctx) })
	require.NoError(t, store.Save(t.Context(), "ada", record(1), make([]byte, 2*partBytes)))
	docs, err := store.client.CollectionGroup(parts).Documents(t.Context()).GetAll()
	require.NoError(t, err)
	_, err = docs[0].Ref.Delete(t.Context())
	require.NoError(t, err)
	_, err = store.Load(t.Context(), "ada", "c1", 1)
	require.ErrorIs(t, err, ErrPermanent)
	require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
	require.Zero(t, store.left(t))
}

// below are the files and folders in a directory.
func below(t *testing.T, dir string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	}))
	return names
}

func TestFolder_AFailedSaveLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	store := NewFolder(dir, time.Hour)
	long := Record{Name: strings.Repeat("a", 300), Version: 1}
	require.ErrorIs(t, store.Save(t.Context(), "ada", long, nil), ErrPermanent)
	require.Empty(t, below(t, dir))

	need.Root(t)
	full := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", full, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(full, 0)) })
	store = NewFolder(full, time.Hour)
	require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("small")))
	err := store.Save(t.Context(), "ada", record(2), make([]byte, 1<<20))
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NotErrorIs(t, err, ErrPermanent)
	require.Equal(t, []string{"ada", "ada/c1.record"}, below(t, full))
	require.NoError(t, store.Delete(t.Context(), "ada", "c1"), "deletion needs no more room than there is")
}

func TestFolder_WhatHasExpiredGoesThoughNobodyAsks(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, NewFolder(dir, -time.Second).Save(t.Context(), "gone", record(1), []byte("body")))
	store := NewFolder(dir, time.Hour)
	require.NoError(t, store.Save(t.Context(), "here", record(1), []byte("body")))
	require.NoError(t, os.WriteFile(recordPath(filepath.Join(dir, "here"), "c2")+".next", nil, 0o600),
		"of an instance that was killed")
	require.NoError(t, store.keepTidy(t.Context())())
	store.tidy(t.Context())
	require.Equal(t, []string{"here", "here/c1.record"}, below(t, dir))
}

func TestFolder_NothingIsLostToWhoTidiesUp(t *testing.T) {
	store := NewFolder(t.TempDir(), time.Hour)
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for range 100 {
				store.tidy(t.Context())
				_, _ = store.List(t.Context(), "ada")
			}
		})
	}
	for i := range 50 {
		r := Record{Name: fmt.Sprintf("%x", i), Version: 1}
		require.NoError(t, store.Save(t.Context(), "ada", r, nil))
		_, err := store.Load(t.Context(), "ada", r.Name, 1)
		require.NoError(t, err)
		require.NoError(t, os.Remove(recordPath(store.dir("ada"), r.Name)), "so that the folder is empty again")
	}
	work.Wait()
}
