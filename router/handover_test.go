package router

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// leaves has the node hand that over of every user.
func (n *node) leaves(text string) {
	n.opts.HandOver = func(user, _ string) ([]byte, time.Duration) { return []byte(user + " " + text), time.Minute }
}

func (n *node) requireLeft(t *testing.T, user, text string) {
	t.Helper()
	left, err := n.Left(t.Context(), user)
	require.NoError(t, err)
	require.Equal(t, text, string(left))
}

func TestLease_WhatAnOwnerLeavesIsThereForTheNext(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		placed(t, client, "ada", a)
		placed(t, client, "bob", a)
		claim := a.Claim("ada")
		require.NotEmpty(t, claim)
		require.Empty(t, a.Claim("stranger"))
		a.requireLeft(t, "ada", "")
		a.leaves("one")
		require.NoError(t, a.Drain(t.Context()))
		require.NoError(t, a.Release(t.Context(), "ada", false))
		require.Empty(t, a.Claim("ada"))

		b := newNode(t, client, 8)
		placed(t, client, "ada", b)
		require.NotEqual(t, claim, b.Claim("ada"))
		b.requireLeft(t, "ada", "ada one")
		b.requireLeft(t, "bob", "")
		require.InDelta(t, time.Minute, client.PTTL(t.Context(), leftKey("ada")).Val(), float64(20*time.Second))

		require.NoError(t, b.Release(t.Context(), "ada", false))
		b.requireLeft(t, "ada", "ada one") // who leaves nothing takes nothing away
		require.NoError(t, b.DropLeft(t.Context(), "ada"))
		b.requireLeft(t, "ada", "")
	})
}

func TestLease_WhatIsLeftComesWithTheReleaseWheneverThatIs(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		placed(t, client, "ada", a)
		a.leaves("late")
		lost := &counting{lose: "evalsha"}
		own := redis.NewClient(client.Options())
		defer own.Close()
		own.AddHook(lost)
		a.redis = own
		require.Error(t, a.Release(t.Context(), "ada", false))
		a.requireLeft(t, "ada", "")
		lost.lose = ""
		require.NoError(t, a.beat(t.Context()))
		a.requireLeft(t, "ada", "ada late")
	})
}

func TestLease_WhoIsTheOwnerNoMoreLeavesNothing(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		placed(t, client, "ada", a)
		a.leaves("stale")
		require.NoError(t, client.Set(t.Context(), ownerKey("ada"), "another claim epoch", 0).Err())
		require.NoError(t, client.Set(t.Context(), leftKey("ada"), "newer", 0).Err())
		require.NoError(t, a.Release(t.Context(), "ada", false))
		a.requireLeft(t, "ada", "newer")
	})
}
