package router

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestRouter_AllFrontsFindTheSameOwner(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		newNode(t, client, 300)
		newNode(t, client, 300)
		fronts := []*Router{newRouter(client), newRouter(client)}
		owners := make([]Owner, 300)
		var wg sync.WaitGroup
		for i := range owners {
			wg.Go(func() { owners[i], _ = fronts[i%2].Route(context.Background(), "ada") })
		}
		wg.Wait()
		for _, o := range owners {
			require.Equal(t, owners[0], o)
			require.NotEmpty(t, o.Addr)
		}
	})
}

func TestRouter_PlacesOnTheLessLoadedUntilAllAreFullThenOnWhoCanEvict(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a, b := newNode(t, client, 2), newNode(t, client, 2)
		front := newRouter(client)
		placed := map[string]int{}
		for i := range 4 {
			o, err := front.Route(t.Context(), fmt.Sprint("user", i))
			require.NoError(t, err)
			placed[o.Instance]++
		}
		require.Equal(t, map[string]int{a.ID(): 2, b.ID(): 2}, placed)
		_, err := front.Route(t.Context(), "too many")
		require.ErrorIs(t, err, ErrFull)

		b.load = [2]int{2, 1}
		a.load = [2]int{2, 0}
		require.NoError(t, a.beat(t.Context()))
		require.NoError(t, b.beat(t.Context()))
		o, err := front.Route(t.Context(), "evicts")
		require.NoError(t, err)
		require.Equal(t, b.ID(), o.Instance)
	})
}

// Whose files are there goes on there, as the place is taken already.
func TestRouter_WhereNothingCanBeginOnlyThoseArePlacedWhoseHomeItIs(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		placed(t, client, "known", a)
		placed(t, client, "ada", a)
		require.NoError(t, a.Release(t.Context(), "ada", true))
		say := func(n *node, full bool) {
			n.mu.Lock()
			n.full = full
			n.mu.Unlock()
			require.NoError(t, n.beat(t.Context()))
		}
		a.load = [2]int{1, 1} // by its numbers there would be room
		say(a, true)
		front := newRouter(client)
		_, err := front.Route(t.Context(), "stranger")
		require.ErrorIs(t, err, ErrFull)
		for _, user := range []string{"ada", "known"} {
			o, err := front.Route(t.Context(), user)
			require.NoError(t, err)
			require.Equal(t, a.ID(), o.Instance, user)
		}
		list, err := Instances(t.Context(), client)
		require.NoError(t, err)
		require.Equal(t, []Instance{{ID: a.ID(), Capacity: 8, Reserved: 8}}, list)

		b := newNode(t, client, 100)
		front.discover(t.Context())
		for i := range 16 {
			o, err := front.Route(t.Context(), fmt.Sprint("user", i))
			require.NoError(t, err)
			require.Equal(t, b.ID(), o.Instance)
		}
		say(a, false)
		say(b, true)
		o, err := front.Route(t.Context(), "stranger")
		require.NoError(t, err)
		require.Equal(t, a.ID(), o.Instance)
	})
}

func TestRouter_AnOwnerIsKnownByItsFingerprint(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		want := Owner{Instance: a.ID(), Addr: a.opts.Addr, Fingerprint: a.fingerprint()}
		for _, first := range []string{"chosen", "found"} {
			o, err := newRouter(client).Route(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, want, o, first)
		}
	})
}

func TestRouter_WithoutInstancesNobodyIsPlaced(t *testing.T) {
	_, err := newRouter(newRedis(t, false)).Route(t.Context(), "ada")
	require.ErrorIs(t, err, ErrUnavailable)
}

func TestRouter_ADrainingOwnerKeepsItsUserUntilItIsReleased(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		_, err := newRouter(client).Route(t.Context(), "ada")
		require.NoError(t, err)
		require.NoError(t, a.Admit(t.Context(), "ada", false))
		b := newNode(t, client, 8)
		require.NoError(t, a.Drain(t.Context()))
		_, err = newRouter(client).Route(t.Context(), "ada")
		require.ErrorIs(t, err, ErrDraining)
		require.NoError(t, a.Release(t.Context(), "ada", false))
		o, err := newRouter(client).Route(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, b.ID(), o.Instance)
		require.NoError(t, a.Close(t.Context(), true))
		require.Zero(t, client.Exists(t.Context(), instanceKey(a.ID())).Val())
	})
}

func TestRouter_AnInstanceThatEndedInOrderHasAnsweredAll(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a, b := newNode(t, client, 8), newNode(t, client, 8)
		front, owner := newRouter(client), Owner{Instance: a.ID()}
		require.False(t, front.Answered(t.Context(), owner), "it lives, and may have been killed")
		require.NoError(t, a.Drain(t.Context()))
		answered := make(chan bool)
		go func() { answered <- front.Answered(t.Context(), owner) }()
		select {
		case <-answered:
			require.Fail(t, "it has not ended yet")
		case <-time.After(200 * time.Millisecond):
		}
		require.NoError(t, a.Close(t.Context(), true))
		require.True(t, <-answered)
		require.True(t, front.Answered(t.Context(), owner))
		require.NoError(t, b.Close(t.Context(), false))
		require.False(t, front.Answered(t.Context(), Owner{Instance: b.ID()}))
	})
}

func TestRouter_AReleasedUserComesHomeWhereItsFilesAre(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		nodes := map[string]*node{}
		for range 6 {
			n := newNode(t, client, 100)
			nodes[n.ID()] = n
		}
		o, err := newRouter(client).Route(t.Context(), "ada")
		require.NoError(t, err)
		home := nodes[o.Instance]
		for range 10 {
			require.NoError(t, home.Admit(t.Context(), "ada", false))
			require.NoError(t, home.Release(t.Context(), "ada", true))
			o, err := newRouter(client).Route(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, home.ID(), o.Instance)
		}
	})
}

func TestLease_ReleaseComparesInstanceAndClaim(t *testing.T) {
	client := newRedis(t, false)
	a := newNode(t, client, 8)
	_, err := newRouter(client).Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	run := client.HGet(t.Context(), epochKey, "run").Val()
	others := a.ID() + " another-claim " + run
	require.NoError(t, client.Set(t.Context(), ownerKey("ada"), others, 0).Err())
	require.NoError(t, a.Release(t.Context(), "ada", false))
	require.Equal(t, others, client.Get(t.Context(), ownerKey("ada")).Val())
}

func TestLease_AdmitsOnlyItsOwn(t *testing.T) {
	client := newRedis(t, false)
	a, b := newNode(t, client, 8), newNode(t, client, 8)
	o, err := newRouter(client).Route(t.Context(), "ada")
	require.NoError(t, err)
	owner, other := a, b
	if o.Instance == b.ID() {
		owner, other = b, a
	}
	require.NoError(t, owner.Admit(t.Context(), "ada", false))
	require.ErrorIs(t, other.Admit(t.Context(), "ada", false), ErrNotOwner)
}

func TestLease_TheFenceFallsBeforeTheLeaseEnds(t *testing.T) {
	client := newRedis(t, false)
	a := newNode(t, client, 8)
	_, err := newRouter(client).Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	a.passes(LeaseTime - Margin)
	require.ErrorIs(t, a.Admit(t.Context(), "ada", false), ErrNotOwner)
	require.ErrorIs(t, a.Admit(t.Context(), "ada", true), ErrNotOwner, "its own last beat was answered")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, a.beat(gone))
	require.NoError(t, a.Admit(t.Context(), "ada", true), "an outage for all is no partition")
	require.ErrorIs(t, a.Admit(t.Context(), "ada", false), ErrNotOwner)
	require.ErrorIs(t, a.Admit(t.Context(), "stranger", true), ErrNotOwner)
	require.NoError(t, a.beat(t.Context()))
	require.NoError(t, a.Admit(t.Context(), "ada", false))
}

func TestRouter_ARedisThatComesBackEmptySettlesAndKnownUsersStay(t *testing.T) {
	client := newRedis(t, false)
	a := newNode(t, client, 8)
	front := newRouter(client)
	was, err := front.Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))

	require.NoError(t, client.FlushAll(t.Context()).Err())
	front.Misdirected("ada", was)
	again, err := front.Route(t.Context(), "ada")
	require.NoError(t, err, "the former owner is the best guess")
	require.Equal(t, was.Instance, again.Instance)
	_, err = front.Route(t.Context(), "stranger")
	require.ErrorIs(t, err, ErrUnavailable)

	require.NoError(t, a.beat(t.Context()))
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	found, err := newRouter(client).Route(t.Context(), "ada")
	require.NoError(t, err, "another front finds who was asserted again, also while settling")
	require.Equal(t, was.Instance, found.Instance)
}

func TestLease_AUserThatMovedMeanwhileIsEvicted(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		_, err := newRouter(client).Route(t.Context(), "ada")
		require.NoError(t, err)
		require.NoError(t, a.Admit(t.Context(), "ada", false))
		require.NoError(t, client.Del(t.Context(), instanceKey(a.ID())).Err(), "its lease has ended")
		b := newNode(t, client, 8)
		o, err := newRouter(client).Route(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, b.ID(), o.Instance)

		held := a.Held("ada")
		require.NoError(t, held.Err())
		require.NoError(t, a.beat(t.Context()))
		require.ErrorIs(t, context.Cause(held), ErrNotOwner, "what is done for the user here has to stop")
		require.ErrorIs(t, context.Cause(a.Held("ada")), ErrNotOwner)
		require.Eventually(t, func() bool { return len(a.evictions()) == 1 }, 10*time.Second, time.Millisecond)
		require.ErrorIs(t, a.Admit(t.Context(), "ada", false), ErrNotOwner)
		require.NoError(t, b.Admit(t.Context(), "ada", false))
	})
}

func TestLease_AReleaseThatRedisMissedIsToldLater(t *testing.T) {
	client := newRedis(t, false)
	a := newNode(t, client, 8)
	_, err := newRouter(client).Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, a.Release(gone, "ada", false))
	require.Equal(t, int64(1), client.Exists(t.Context(), ownerKey("ada")).Val())
	require.ErrorIs(t, a.Admit(t.Context(), "ada", false), ErrNotOwner, "not admitted again by the old claim")
	require.NoError(t, a.beat(t.Context()))
	require.Zero(t, client.Exists(t.Context(), ownerKey("ada")).Val())
}

func TestLease_AssertsWhoIsMissingAndSeesWhoIsAnothers(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		for _, user := range []string{"ada", "bob"} {
			_, err := newRouter(client).Route(t.Context(), user)
			require.NoError(t, err)
			require.NoError(t, a.Admit(t.Context(), user, false))
		}
		adas := client.Get(t.Context(), ownerKey("ada")).Val()
		require.NoError(t, client.Del(t.Context(), ownerKey("ada")).Err())
		others := "b claim " + client.HGet(t.Context(), epochKey, "run").Val()
		require.NoError(t, client.Set(t.Context(), ownerKey("bob"), others, 0).Err())

		kept, moved, err := a.assert(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int{1, 1}, []int{kept, moved})
		require.Equal(t, adas, client.Get(t.Context(), ownerKey("ada")).Val())
		require.Equal(t, others, client.Get(t.Context(), ownerKey("bob")).Val())
		require.Equal(t, ownerTTL, client.PTTL(t.Context(), ownerKey("ada")).Val().Round(time.Minute))
	})
}

func TestNewClient_DoesntRepeatThePassword(t *testing.T) {
	_, err := NewClient("redis://:hunter2@%zz", "")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

func BenchmarkRoute_Known(b *testing.B) {
	r := newRouter(redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}))
	r.known.keep("ada", Owner{Instance: "i", Addr: "127.0.0.1:2"})
	for b.Loop() {
		if _, err := r.Route(b.Context(), "ada"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRouter_SaysWhichWireTheOwnerSpeaks(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		n := newNode(t, client, 1)
		n.opts.Wire = 7
		require.NoError(t, n.beat(t.Context()))
		for _, when := range []string{"placed", "owned"} {
			owner, err := newRouter(client).Route(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, 7, owner.Wire, when)
		}
		// As an instance of the first release is registered, which didn't say.
		require.NoError(t, client.HDel(t.Context(), instanceKey(n.ID()), "wire").Err())
		owner, err := newRouter(client).Route(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, 1, owner.Wire)
	})
}

func TestRouter_AHangUpDoesntMakeRedisAway(t *testing.T) {
	client := newRedis(t, false)
	newNode(t, client, 8)
	front := newRouter(client)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	front.known.keep("cleo", Owner{Instance: "i"})
	front.known.markStale("cleo", "i")
	owner, err := front.claim(gone, "cleo")
	require.NoError(t, err)
	require.False(t, owner.Outage)
	_, err = front.claim(gone, "ada")
	require.ErrorIs(t, err, ErrUnavailable)
	require.False(t, front.away.Load())
	_, err = front.RouteTogether(gone, "ada", "bob")
	require.ErrorIs(t, err, ErrUnavailable)
	require.False(t, front.away.Load())
}

func TestAwait_ReturnsWhenRedisAnswers(t *testing.T) {
	server := miniredis.NewMiniRedis()
	require.NoError(t, server.Start())
	addr := server.Addr()
	server.Close()
	client, err := NewClient("redis://"+addr, "")
	require.NoError(t, err)
	defer client.Close()
	ended, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, Await(ended, client, quiet), context.DeadlineExceeded)
	done := make(chan error, 1)
	go func() { done <- Await(t.Context(), client, quiet) }()
	require.NoError(t, server.StartAddr(addr))
	defer server.Close()
	require.NoError(t, <-done)
}
