package archive

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/database"
	"claudepool/infra/testkit/emulator"
)

func TestMain(m *testing.M) { emulator.TestMain(m) }

// stores runs a test with both stores, given how to open one whose records live for ttl. Stores of one test are one.
func stores(t *testing.T, test func(t *testing.T, open func(ttl time.Duration) Store)) {
	t.Run("folder", func(t *testing.T) {
		dir := t.TempDir()
		test(t, func(ttl time.Duration) Store { return NewFolder(dir, ttl) })
	})
	t.Run("firestore", func(t *testing.T) {
		addr, project := emulator.Addr(t), fmt.Sprintf("test-%d", time.Now().UnixNano())
		test(t, func(ttl time.Duration) Store { return inEmulator(t, addr, project, ttl) })
	})
}

// inEmulator is a project's store.
func inEmulator(t *testing.T, addr, project string, ttl time.Duration) *Firestore {
	t.Helper()
	client, err := emulator.Connect(t.Context(), addr, project)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return NewFirestore(client, ttl)
}

func record(version int64) Record {
	return Record{Name: "c1", Version: version, Head: fmt.Append(nil, "head ", version)}
}

func TestStore_ReturnsTheVersionThatWasSavedLast(t *testing.T) {
	stores(t, func(t *testing.T, open func(time.Duration) Store) {
		store := open(time.Hour)
		list, err := store.List(t.Context(), "ada")
		require.NoError(t, err)
		require.Empty(t, list)
		require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("one")))
		require.NoError(t, store.Save(t.Context(), "ada", record(2), []byte("two")))
		other := Record{Name: "c2", Version: 1, Head: []byte("other")}
		require.NoError(t, store.Save(t.Context(), "ada", other, nil))
		list, err = open(time.Hour).List(t.Context(), "ada")
		require.NoError(t, err)
		require.ElementsMatch(t, []Record{record(2), other}, list)
		body, err := store.Load(t.Context(), "ada", "c1", 2)
		require.NoError(t, err)
		require.Equal(t, "two", string(body))
		_, err = store.Load(t.Context(), "ada", "c1", 1)
		require.ErrorIs(t, err, ErrConflict)
		list, err = store.List(t.Context(), "bob")
		require.NoError(t, err)
		require.Empty(t, list, "another's")
	})
}

func TestStore_WhoComesLateCantOverwrite(t *testing.T) {
	stores(t, func(t *testing.T, open func(time.Duration) Store) {
		store := open(time.Hour)
		require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("one")))
		require.NoError(t, store.Save(t.Context(), "ada", record(2), []byte("two")))
		for _, version := range []int64{1, 2, 4} {
			require.ErrorIs(t, store.Save(t.Context(), "ada", record(version), []byte("late")), ErrConflict)
		}
		results := make(chan error)
		for range 8 {
			go func() { results <- store.Save(t.Context(), "ada", record(3), []byte("three")) }()
		}
		won := 0
		for range 8 {
			if err := <-results; err == nil {
				won++
			}
		}
		require.Equal(t, 1, won, "one of those who follow the same version")
		body, err := store.Load(t.Context(), "ada", "c1", 3)
		require.NoError(t, err)
		require.Equal(t, "three", string(body))
	})
}

func TestStore_LargeBodiesComeBackWhole(t *testing.T) {
	stores(t, func(t *testing.T, open func(time.Duration) Store) {
		store := open(time.Hour)
		for i, size := range []int{partBytes, 5*partBytes + 1, 3} {
			version := int64(i + 1)
			want := bytes.Repeat([]byte{byte(version)}, size)
			require.NoError(t, store.Save(t.Context(), "ada", record(version), want))
			body, err := store.Load(t.Context(), "ada", "c1", version)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, body))
		}
	})
}

func TestStore_WhatHasExpiredIsGoneAndLeavesRoom(t *testing.T) {
	stores(t, func(t *testing.T, open func(time.Duration) Store) {
		require.NoError(t, open(-time.Second).Save(t.Context(), "ada", record(1), []byte("one")))
		store := open(time.Hour)
		list, err := store.List(t.Context(), "ada")
		require.NoError(t, err)
		require.Empty(t, list)
		require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("new")))
	})
}

func TestStore_DeleteLeavesAMarkAndMayBeRepeated(t *testing.T) {
	stores(t, func(t *testing.T, open func(time.Duration) Store) {
		store := open(time.Hour)
		require.NoError(t, store.Delete(t.Context(), "ada", "c1"), "there is none")
		require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("one")))
		require.NoError(t, store.Save(t.Context(), "ada", record(2), []byte("two")))
		require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
		require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
		list, err := store.List(t.Context(), "ada")
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, "c1", list[0].Name)
		require.True(t, list[0].Deleted)
		require.Empty(t, list[0].Head)
		_, err = store.Load(t.Context(), "ada", "c1", 2)
		require.ErrorIs(t, err, ErrConflict)
		require.ErrorIs(t, store.Save(t.Context(), "ada", record(3), nil), ErrConflict,
			"who doesn't know of it can't bring it back")
		require.NoError(t, store.Save(t.Context(), "ada", record(1), nil), "one that begins anew may have its name")
		list, err = store.List(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, []Record{record(1)}, list)
	})
}

func TestStore_WhatIsDroppedIsAsGoodAsNeverSaved(t *testing.T) {
	stores(t, func(t *testing.T, open func(time.Duration) Store) {
		store := open(time.Hour)
		require.NoError(t, store.Drop(t.Context(), "ada", "c1", 1), "there is none")
		require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("one")))
		require.NoError(t, store.Save(t.Context(), "ada", record(2), []byte("two")))
		require.NoError(t, store.Drop(t.Context(), "ada", "c1", 1), "it has been used since")
		body, err := store.Load(t.Context(), "ada", "c1", 2)
		require.NoError(t, err)
		require.Equal(t, "two", string(body))
		require.NoError(t, store.Drop(t.Context(), "ada", "c1", 2))
		list, err := store.List(t.Context(), "ada")
		require.NoError(t, err)
		require.Empty(t, list)
		require.NoError(t, store.Save(t.Context(), "ada", record(3), nil), "by who still has it")
		require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
		require.NoError(t, store.Drop(t.Context(), "ada", "c1", 3), "its mark stays")
		list, err = store.List(t.Context(), "ada")
		require.NoError(t, err)
		require.Len(t, list, 1)
	})
}

func TestFolder_WhatIsNotWholeIsAsGoodAsGone(t *testing.T) {
	dir := t.TempDir()
	store := NewFolder(dir, time.Hour)
	for i, content := range []string{"", "{}", "garbage\nbody"} {
		require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("one")))
		path := recordPath(filepath.Join(dir, "ada"), "c1")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err := store.Load(t.Context(), "ada", "c1", 1)
		require.ErrorIs(t, err, ErrConflict)
		if i > 0 {
			list, err := store.List(t.Context(), "ada")
			require.NoError(t, err)
			require.Empty(t, list)
			require.NoFileExists(t, path)
		}
	}
}

func TestStore_TheMarkOfADeletedOneExpires(t *testing.T) {
	stores(t, func(t *testing.T, open func(time.Duration) Store) {
		require.NoError(t, open(time.Hour).Save(t.Context(), "ada", record(1), nil))
		require.NoError(t, open(-time.Second).Delete(t.Context(), "ada", "c1"))
		list, err := open(time.Hour).List(t.Context(), "ada")
		require.NoError(t, err)
		require.Empty(t, list)
		require.NoError(t, open(time.Hour).Save(t.Context(), "ada", record(2), nil))
	})
}

func TestFirestore_NoPartsOfOldVersionsAreLeft(t *testing.T) {
	store := inEmulator(t, emulator.Addr(t), fmt.Sprintf("test-%d", time.Now().UnixNano()), time.Hour)
	left := func() int {
		docs, err := store.client.CollectionGroup(parts).Documents(t.Context()).GetAll()
		require.NoError(t, err)
		return len(docs)
	}
	require.NoError(t, store.Save(t.Context(), "ada", record(1), make([]byte, 2*partBytes)))
	require.NoError(t, store.Save(t.Context(), "ada", record(2), make([]byte, 10)))
	require.ErrorIs(t, store.Save(t.Context(), "ada", record(2), make([]byte, 2*partBytes)), ErrConflict)
	require.Equal(t, 1, left())
	require.NoError(t, store.Delete(t.Context(), "ada", "c1"))
	require.Zero(t, left())
}

func TestOpen_NeedsAPlaceAndATimeToLive(t *testing.T) {
	t.Setenv(database.EmulatorHost, "")
	store, closeStore, err := Open(t.Context(), "", "", "(default)", time.Hour)
	require.NoError(t, err)
	require.Nil(t, store)
	require.NoError(t, closeStore())
	store, _, err = Open(t.Context(), t.TempDir(), "", "(default)", 0)
	require.NoError(t, err)
	require.Nil(t, store)
	store, closeStore, err = Open(t.Context(), t.TempDir(), "", "(default)", time.Hour)
	require.NoError(t, err)
	require.IsType(t, &Folder{}, store)
	require.NoError(t, closeStore())
}

// A lock that another process keeps is waited for as long as the caller has, and whoever only asks leaves nothing
// behind.
func TestFolder_WaitsForALockNoLongerThanItsContext(t *testing.T) {
	dir := t.TempDir()
	store := NewFolder(dir, time.Hour)
	records, err := store.List(t.Context(), "stranger")
	require.NoError(t, err)
	require.Empty(t, records)
	_, err = store.Load(t.Context(), "stranger", "c1", 1)
	require.ErrorIs(t, err, ErrConflict)
	require.NoError(t, store.Delete(t.Context(), "stranger", "c1"))
	require.NoDirExists(t, filepath.Join(dir, "stranger"))

	require.NoError(t, store.Save(t.Context(), "ada", record(1), []byte("body")))
	held, err := os.Open(filepath.Join(dir, "ada"))
	require.NoError(t, err)
	defer held.Close()
	require.NoError(t, unix.Flock(int(held.Fd()), unix.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = store.List(ctx, "ada")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, unix.Flock(int(held.Fd()), unix.LOCK_UN))
	records, err = store.List(t.Context(), "ada")
	require.NoError(t, err)
	require.Len(t, records, 1)
}
