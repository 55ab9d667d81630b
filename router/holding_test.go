package router

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// counting counts the commands of a client, and loses those of a kind.
type counting struct {
	n    int
	lose string
}

func (c *counting) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n++
		if cmd.Name() == c.lose {
			cmd.SetErr(errors.New("lost"))
			return cmd.Err()
		}
		return next(ctx, cmd)
	}
}

func (c *counting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// placed has a user placed and admitted on one of the nodes.
func placed(t *testing.T, client *redis.Client, user string, nodes ...*node) *node {
	t.Helper()
	o, err := newRouter(client).Route(t.Context(), user)
	require.NoError(t, err)
	for _, n := range nodes {
		if n.ID() == o.Instance {
			require.NoError(t, n.Admit(t.Context(), user, false))
			return n
		}
	}
	require.Fail(t, "placed elsewhere")
	return nil
}

func TestLease_WhatRedisDoesNotSayIsNotConfirmed(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		require.ErrorIs(t, a.Confirm(t.Context(), "ada"), ErrNotNow, "nobody has her")
		placed(t, client, "ada", a)
		held := a.Held("ada")
		require.NoError(t, a.Confirm(t.Context(), "ada"))
		require.ErrorIs(t, a.Confirm(t.Context(), "bob"), ErrNotNow)
		entry := client.Get(t.Context(), ownerKey("ada")).Val()

		require.NoError(t, client.Set(t.Context(), ownerKey("ada"), "another"+entry, 0).Err())
		require.ErrorIs(t, a.Confirm(t.Context(), "ada"), ErrNotNow, "another has her, which this one doesn't know yet")
		claim := a.claims["ada"].claim
		require.NoError(t, client.Set(t.Context(), ownerKey("ada"), strings.Replace(entry, claim, "x", 1), 0).Err())
		require.ErrorIs(t, a.Confirm(t.Context(), "ada"), ErrNotNow, "she came back meanwhile")
		require.NoError(t, client.Set(t.Context(), ownerKey("ada"), entry, 0).Err())
		require.NoError(t, a.Confirm(t.Context(), "ada"))
		away, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, a.Confirm(away, "ada"), ErrNotNow, "nobody could be asked")

		require.NoError(t, held.Err())
		require.NoError(t, a.Release(t.Context(), "ada", false))
		require.ErrorIs(t, context.Cause(held), ErrNotOwner)
		require.ErrorIs(t, a.Confirm(t.Context(), "ada"), ErrNotNow)
	})
}

func TestLease_WhoIsProvenIsSoWhereverTheNextClaimIs(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		placed(t, client, "ada", a)
		require.False(t, a.Proven("ada"))
		require.False(t, a.Proven("stranger"))
		require.NoError(t, a.Prove(t.Context(), "ada"))
		require.True(t, a.Proven("ada"))
		require.NoError(t, a.Drain(t.Context()))
		require.NoError(t, a.Release(t.Context(), "ada", false))
		require.False(t, a.Proven("ada"), "it isn't held here any more")

		b := newNode(t, client, 8)
		_, err := newRouter(client).Route(t.Context(), "ada")
		require.NoError(t, err)
		asked := &counting{}
		client.AddHook(asked)
		require.NoError(t, b.Admit(t.Context(), "ada", false))
		require.True(t, b.Proven("ada"))
		require.Equal(t, 1, asked.n, "it came with the claim")
		placed(t, client, "bob", b)
		require.False(t, b.Proven("bob"))
	})
}

func TestLease_ARedisThatWasLostLeavesAllUnproven(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		placed(t, client, "ada", a)
		require.NoError(t, a.Prove(t.Context(), "ada"))
		require.NoError(t, client.FlushAll(t.Context()).Err())
		require.NoError(t, a.beat(t.Context()))
		require.NoError(t, a.Admit(t.Context(), "ada", false))
		require.True(t, a.Proven("ada"), "who is held is known")
		require.NoError(t, a.Release(t.Context(), "ada", false))
		require.NoError(t, EndSettling(t.Context(), client))
		newRouter(client).discover(t.Context())
		placed(t, client, "ada", a)
		require.False(t, a.Proven("ada"))
	})
}

func TestLease_RedisIsToldOnceADayWhoIsProven(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		placed(t, client, "ada", a)
		asked := &counting{}
		client.AddHook(asked)
		for range 3 {
			require.NoError(t, a.Prove(t.Context(), "ada"))
		}
		require.Equal(t, 1, asked.n)
		left := func() time.Duration { return client.PTTL(t.Context(), provenKey("ada")).Val().Round(time.Hour) }
		require.Equal(t, provenTTL, left())

		// Time passes for both sides.
		require.NoError(t, client.PExpire(t.Context(), provenKey("ada"), provenTTL-provenAgain).Err())
		a.passes(provenAgain + time.Second)
		require.NoError(t, a.beat(t.Context()))
		require.NoError(t, a.Prove(t.Context(), "ada"))
		require.Equal(t, provenTTL, left())

		for age, want := range map[time.Duration]time.Duration{time.Hour: provenTTL - time.Hour, 25 * time.Hour: provenTTL} {
			require.NoError(t, a.Release(t.Context(), "ada", false))
			require.NoError(t, client.PExpire(t.Context(), provenKey("ada"), provenTTL-age).Err())
			placed(t, client, "ada", a)
			require.True(t, a.Proven("ada"))
			require.NoError(t, a.Prove(t.Context(), "ada"))
			require.Equal(t, want, left(), "it is known how old the proof was that came with the claim")
		}
	})
}

func TestLease_WhoIsProvenWhileRedisIsAwayIsToldLater(t *testing.T) {
	client := newRedis(t, false)
	a := newNode(t, client, 8)
	placed(t, client, "ada", a)
	asked := &counting{lose: "set"}
	client.AddHook(asked)
	require.Error(t, a.Prove(t.Context(), "ada"))
	require.True(t, a.Proven("ada"))
	asked.lose = ""
	require.NoError(t, a.Prove(t.Context(), "ada"))
	require.EqualValues(t, 1, client.Exists(t.Context(), provenKey("ada")).Val())
}

// A day of refused tokens would fill Redis otherwise.
func TestLease_AUserGivenUpForGoodLeavesNoKey(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		before := client.Keys(t.Context(), "*").Val()
		placed(t, client, "ada", a)
		require.NoError(t, a.Release(t.Context(), "ada", true))
		placed(t, client, "ada", a)
		require.NoError(t, a.Release(t.Context(), "ada", false), "its home neither")
		before = append(before, candidatesKey, evictableKey)
		for _, key := range client.Keys(t.Context(), "*").Val() {
			require.Contains(t, before, key)
		}
	})
}

// What another release left says nothing of proofs, and what this one leaves the other doesn't look at.
func TestLease_ClaimsOfAnotherReleaseAreUnproven(t *testing.T) {
	client := newRedis(t, false)
	a := newNode(t, client, 8)
	run := client.HGet(t.Context(), epochKey, "run").Val()
	require.NoError(t, client.Set(t.Context(), ownerKey("ada"), a.ID()+" claim "+run, ownerTTL).Err())
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	require.False(t, a.Proven("ada"))
	require.NoError(t, a.Prove(t.Context(), "ada"))
	require.Equal(t, a.ID()+" claim "+run, client.Get(t.Context(), ownerKey("ada")).Val())
}
