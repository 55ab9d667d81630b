package snapshot

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func ids(list []Instance) []string {
	var all []string
	for _, i := range list {
		all = append(all, i.ID)
	}
	return all
}

// viewOf returns a View of a store that holds live instances by these ids.
func viewOf(t *testing.T, out *logs, live ...string) (*View, *stand) {
	t.Helper()
	store := newStand()
	for _, id := range live {
		require.NoError(t, store.Memory.Put(t.Context(), Instance{ID: id, ExpiresAt: time.Now().Add(Lifetime)}))
	}
	return NewView(store, out.logger()), store
}

func TestView_ListsByIDAndSaysAsOfWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view, _ := viewOf(t, &logs{}, "b", "c", "a")
		list, asOf, stale := view.List()
		require.Equal(t, []string{"a", "b", "c"}, ids(list))
		require.Equal(t, time.Now(), asOf)
		require.False(t, stale)
	})
}

func TestView_IsAtMostASecondOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view, store := viewOf(t, &logs{}, "a")
		for range 100 { // 10 s
			_, asOf, _ := view.List()
			require.Less(t, time.Since(asOf), time.Second)
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 10, store.lists)
	})
}

func TestView_ManyCallersCostOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view, store := viewOf(t, &logs{}, "a")
		store.set(func(s *stand) { s.slow = 500 * time.Millisecond })
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				list, _, _ := view.List()
				require.Len(t, list, 1)
			})
		}
		callers.Wait()
		require.Equal(t, 1, store.lists)
	})
}

func TestView_AFailingStoreLeavesTheLastGoodListAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &logs{}
		view, store := viewOf(t, out, "a")
		_, good, _ := view.List()
		store.set(func(s *stand) { s.fail = errAway })
		for range 120 { // 2 min: by then the instance's snapshot has expired
			time.Sleep(time.Second)
			list, asOf, stale := view.List()
			require.Equal(t, []string{"a"}, ids(list))
			require.Equal(t, good, asOf)
			require.True(t, stale)
		}
		store.set(func(s *stand) { s.fail = nil })
		require.NoError(t, store.Memory.Put(t.Context(), Instance{ID: "b", ExpiresAt: time.Now().Add(Lifetime)}))
		time.Sleep(time.Second)
		list, asOf, stale := view.List()
		require.Equal(t, []string{"b"}, ids(list))
		require.Equal(t, time.Now(), asOf)
		require.False(t, stale)
		require.Equal(t, 1, out.count("level=ERROR"))
		require.Equal(t, 2, out.count("\n"))
	})
}

func TestView_AHangingStoreCostsTwoSecondsAndNotEachCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view, store := viewOf(t, &logs{}, "a")
		_, _, _ = view.List()
		time.Sleep(time.Minute / 2)
		store.set(func(s *stand) { s.slow = time.Hour })
		begun := time.Now()
		list, _, stale := view.List()
		require.Equal(t, 2*time.Second, time.Since(begun))
		require.Len(t, list, 1)
		require.True(t, stale)
		begun = time.Now()
		_, _, _ = view.List()
		require.Zero(t, time.Since(begun), "a failure is kept for a second as well")
	})
}

func TestView_WithoutAnyGoodReadIsEmptyAndStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view, store := viewOf(t, &logs{}, "a")
		store.set(func(s *stand) { s.fail = errAway })
		list, asOf, stale := view.List()
		require.Empty(t, list)
		require.True(t, asOf.IsZero())
		require.True(t, stale)
	})
}

func TestView_DropsExpiredInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view, store := viewOf(t, &logs{}, "live")
		require.NoError(t, store.Memory.Put(t.Context(), Instance{ID: "soon",
			ExpiresAt: time.Now().Add(500 * time.Millisecond)}))
		list, _, _ := view.List()
		require.Equal(t, []string{"live", "soon"}, ids(list))
		time.Sleep(500 * time.Millisecond)
		list, _, _ = view.List()
		require.Equal(t, []string{"live"}, ids(list), "also between two reads")
	})
}

func TestMemory_KeepsOneSnapshotOfEachInstance(t *testing.T) {
	store := NewMemory()
	for _, i := range []Instance{{ID: "a", Processes: 1}, {ID: "b"}, {ID: "a", Processes: 2}} {
		require.NoError(t, store.Put(t.Context(), i))
	}
	require.NoError(t, store.Delete(t.Context(), "b"))
	require.NoError(t, store.Delete(t.Context(), "never"))
	list, err := store.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Instance{{ID: "a", Processes: 2}}, list)
}
