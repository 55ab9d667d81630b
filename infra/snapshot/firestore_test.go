package snapshot

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/database"
	"claudepool/infra/freeport"
	"claudepool/infra/latency"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/emulator"
)

// open returns a Store of a project of the test's own at the address.
func open(t *testing.T, addr string) *Firestore {
	t.Helper()
	t.Setenv(database.EmulatorHost, addr)
	store, err := NewFirestore(t.Context(), fmt.Sprintf("test-%d", time.Now().UnixNano()), "(default)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

func full(id string) Instance {
	now := time.Now().UTC().Truncate(time.Microsecond) // what Firestore keeps
	return Instance{
		ID: id, At: now, ExpiresAt: now.Add(Lifetime), Capacity: 8, Processes: 2, Standby: 1, Queued: 3, Draining: true,
		MaxIdle: 5 * time.Minute, CleanupInterval: time.Minute, Protections: map[string]bool{"uid": true, "network": false},
		Cleanup: Cleanup{Last: now, Total: 7, AvgLifetime: 90 * time.Second},
		Busy:    1, Pending: 2, Served: Served{Standby: 1, Reused: 2, Resumed: 3, Cold: 4},
		FirstTokens: []latency.Minute{{Start: now.Truncate(time.Minute), First: 70, Counts: []int64{1, 0, 2}}},
		Users: []User{
			{ID: "0123456789abcdef", Processes: 2, PID: 42, CreatedAt: now, LastUsed: now, Busy: true, Alive: true},
			{ID: "fedcba9876543210"},
		},
	}
}

func TestFirestore_ReturnsWhatWasPut(t *testing.T) {
	store := open(t, emulator.Addr(t))
	one, two := full("i1"), full("i2")
	require.NoError(t, store.Put(t.Context(), Instance{ID: "i1"}))
	require.NoError(t, store.Put(t.Context(), one))
	require.NoError(t, store.Put(t.Context(), two))
	list, err := store.List(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []Instance{one, two}, list)
}

func TestFirestore_DeleteForgetsAndMayBeRepeated(t *testing.T) {
	store := open(t, emulator.Addr(t))
	require.NoError(t, store.Put(t.Context(), full("i1")))
	require.NoError(t, store.Delete(t.Context(), "i1"))
	require.NoError(t, store.Delete(t.Context(), "i1"))
	list, err := store.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestFirestore_ListLeavesOutWhatHasExpired(t *testing.T) {
	store := open(t, emulator.Addr(t))
	dead := full("dead")
	dead.ExpiresAt = time.Now().Add(-time.Second)
	require.NoError(t, store.Put(t.Context(), dead))
	require.NoError(t, store.Put(t.Context(), full("live")))
	list, err := store.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"live"}, ids(list))
}

func TestFirestore_ExpiryIsATimestampForTheTTLPolicy(t *testing.T) {
	store := open(t, emulator.Addr(t))
	want := full("i1")
	require.NoError(t, store.Put(t.Context(), want))
	doc, err := store.client.Collection(collection).Doc("i1").Get(t.Context())
	require.NoError(t, err)
	require.Equal(t, want.ExpiresAt, doc.Data()["expires_at"])
}

// An instance of the release before, and one that has had no turn, write none of what came later.
func TestFirestore_ASnapshotWithoutWhatCameLaterIsRead(t *testing.T) {
	store := open(t, emulator.Addr(t))
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	_, err := store.client.Collection(collection).Doc("i1").Set(t.Context(), map[string]any{
		"id": "i1", "expires_at": until, "processes": 3,
	})
	require.NoError(t, err)
	list, err := store.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Instance{{ID: "i1", ExpiresAt: until, Processes: 3}}, list)
}

func TestFirestore_AForeignDocumentHidesNoInstance(t *testing.T) {
	store := open(t, emulator.Addr(t))
	require.NoError(t, store.Put(t.Context(), full("i1")))
	_, err := store.client.Collection(collection).Doc("odd").Set(t.Context(), map[string]any{
		"expires_at": time.Now().Add(time.Hour), "users": "many",
	})
	require.NoError(t, err)
	list, err := store.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"i1"}, ids(list))
}

func TestFirestore_DeadAddressFailsWithinTheDeadline(t *testing.T) {
	addr, err := freeport.Addr() // connections are refused
	require.NoError(t, err)
	everyCallEnds(t, open(t, addr))
}

func TestFirestore_SilentAddressFailsWithinTheDeadline(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }() // connections are made and nothing answers
	everyCallEnds(t, open(t, listener.Addr().String()))
}

// everyCallEnds makes all calls at once, without a deadline of the caller's.
func everyCallEnds(t *testing.T, store *Firestore) {
	t.Helper()
	begun := time.Now()
	failures := make(chan error, 3)
	go func() { failures <- store.Put(t.Context(), full("i1")) }()
	go func() { failures <- store.Delete(t.Context(), "i1") }()
	go func() { _, err := store.List(t.Context()); failures <- err }()
	for range 3 {
		require.Error(t, <-failures)
	}
	require.Less(t, time.Since(begun), callTimeout+10*time.Second)
}

func TestView_OfFirestoreIsStaleWhileItIsAwayAndHeals(t *testing.T) {
	way, err := testkit.NewRelay(emulator.Addr(t))
	require.NoError(t, err)
	t.Cleanup(way.Close)
	store := open(t, way.Addr())
	view := NewView(store, (&logs{}).logger())
	require.NoError(t, store.Put(t.Context(), full("i1")))
	require.Eventually(t, func() bool {
		list, _, stale := view.List()
		return !stale && slices.Equal([]string{"i1"}, ids(list))
	}, 30*time.Second, 100*time.Millisecond)

	way.Reset(true)
	time.Sleep(pace.Read)
	begun := time.Now()
	list, _, stale := view.List()
	require.Less(t, time.Since(begun), readTimeout+10*time.Second)
	require.Equal(t, []string{"i1"}, ids(list))
	require.True(t, stale)

	way.Mend()
	require.Eventually(t, func() bool { _, _, stale := view.List(); return !stale }, time.Minute, 100*time.Millisecond)
}

func TestOpen_IsInMemoryOnlyWithoutProjectAndEmulator(t *testing.T) {
	t.Setenv(database.EmulatorHost, "")
	store, closeStore, err := Open(t.Context(), "", "(default)")
	require.NoError(t, err)
	require.IsType(t, &Memory{}, store)
	require.NoError(t, closeStore())

	t.Setenv(database.EmulatorHost, "127.0.0.1:1") // nobody is asked before the first call
	store, closeStore, err = Open(t.Context(), "", "(default)")
	require.NoError(t, err)
	require.IsType(t, &Firestore{}, store)
	require.NoError(t, closeStore())
}
