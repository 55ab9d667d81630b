package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// An instance of a version without encryption has no fingerprint: it keeps whom it has until it gives them up.
func TestRouter_AnInstanceThatIsNotReachedAsRequestsWillBeIsNotPlaceable(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		old, current := newNode(t, client, 8), newNode(t, client, 8)
		require.NoError(t, client.HDel(t.Context(), instanceKey(old.ID()), "fingerprint").Err())
		front := newRouter(client)
		front.opts.Reach = func(ctx context.Context, owner Owner) error {
			if owner.Fingerprint != current.fingerprint() {
				return errors.New("not who it should be")
			}
			return reachPlain(ctx, owner)
		}
		for i := range 8 {
			o, err := front.Route(t.Context(), fmt.Sprint("user", i))
			require.NoError(t, err)
			require.Equal(t, current.ID(), o.Instance)
		}
		require.NoError(t, client.Set(t.Context(), ownerKey("ada"), old.ID()+" claim "+client.HGet(t.Context(), epochKey,
			"run").Val(), 0).Err())
		o, err := front.Route(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, Owner{Instance: old.ID(), Addr: old.opts.Addr}, o)
	})
}

// Each front has a connection to where its next users will be, so that none of them waits for one.
func TestRouter_EveryFrontReachesTheInstancesBeforeItsUsersCome(t *testing.T) {
	client := newRedis(t, false)
	a, b := newNode(t, client, 8), newNode(t, client, 8)
	newRouter(client).discover(t.Context())
	front := newRouter(client)
	var mu sync.Mutex
	reached := map[string]int{}
	unreached := b.ID()
	front.opts.Reach = func(ctx context.Context, owner Owner) error {
		mu.Lock()
		defer mu.Unlock()
		reached[owner.Instance]++
		if owner.Instance == unreached {
			return errors.New("the first connection on a VPC can take a minute")
		}
		return reachPlain(ctx, owner)
	}
	for range 3 {
		front.keepWarm(t.Context())
	}
	require.Equal(t, map[string]int{a.ID(): 1, b.ID(): 3}, reached)
	unreached = ""
	front.keepWarm(t.Context())
	front.reached[a.ID()] = time.Now().Add(-rewarmAfter - time.Second)
	front.keepWarm(t.Context())
	front.keepWarm(t.Context())
	require.Equal(t, map[string]int{a.ID(): 2, b.ID(): 4}, reached)

	require.NoError(t, client.Del(t.Context(), instanceKey(a.ID())).Err()) // as it expires after a SIGKILL
	front.keepWarm(t.Context())
	for _, key := range []string{candidatesKey, evictableKey} {
		require.Equal(t, []string{b.ID()}, client.ZRange(t.Context(), key, 0, -1).Val(), key)
	}
}

// One that is frozen must not keep a front from looking after Redis and the others.
func TestRouter_AnInstanceThatIsSilentIsNotWaitedForForLong(t *testing.T) {
	client := newRedis(t, false)
	newNode(t, client, 8)
	front := newRouter(client)
	front.opts.Reach = func(ctx context.Context, _ Owner) error {
		<-ctx.Done()
		return ctx.Err()
	}
	front.discover(t.Context())
	require.Zero(t, client.ZCard(t.Context(), candidatesKey).Val())
	require.EqualValues(t, 1, client.SCard(t.Context(), pendingKey).Val(), "it is tried again")
}

func TestRouter_SamplesWhoLivesAndClaimsNothing(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a, b, leaves := newNode(t, client, 8), newNode(t, client, 8), newNode(t, client, 8)
		front := newRouter(client)
		require.Empty(t, front.Sample(3), "none is known yet")
		front.discover(t.Context())
		require.NoError(t, leaves.Drain(t.Context()))
		front.keepWarm(t.Context())
		sampled := map[string]int{}
		for range 200 {
			some := front.Sample(1)
			require.Len(t, some, 1)
			sampled[some[0].Instance]++
		}
		require.Len(t, sampled, 2, "whoever it is, but not who leaves")
		require.Positive(t, sampled[a.ID()])
		require.Contains(t, front.Sample(9), Owner{Instance: a.ID(), Addr: a.opts.Addr, Fingerprint: a.fingerprint()})
		require.Empty(t, client.Keys(t.Context(), ownerKey("*")).Val())

		front.markAvoided(a.ID())
		require.Len(t, front.Sample(9), 1, "one can't be dialled")
		require.NoError(t, client.Del(t.Context(), instanceKey(a.ID())).Err()) // as it expires after a SIGKILL
		front.keepWarm(t.Context())
		require.Equal(t, b.ID(), front.Sample(9)[0].Instance)
		require.NoError(t, client.Close())
		front.keepWarm(t.Context())
		require.Len(t, front.Sample(9), 1, "while Redis is away they are those of before")
	})
}
