package router

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestRouteTogether_WhoHasNoOwnerGetsThatOfTheOther(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		for range 3 {
			newNode(t, client, 100)
		}
		front, another := newRouter(client), newRouter(client)
		for _, c := range []struct{ has, user, former string }{{"ada", "new", "ada"}, {"bob", "bob", "old"},
			{"", "cleo", "before"}} {
			if c.has != "" {
				_, err := front.Route(t.Context(), c.has)
				require.NoError(t, err)
			}
			owner, err := another.RouteTogether(t.Context(), c.user, c.former)
			require.NoError(t, err)
			for _, user := range []string{c.user, c.former} {
				found, err := front.Route(t.Context(), user)
				require.NoError(t, err)
				require.Equal(t, owner, found, user)
			}
		}
	})
}

func TestRouteTogether_AFormerUserElsewhereIsGivenUpFirst(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 2)
		front := newRouter(client)
		_, err := front.Route(t.Context(), "former")
		require.NoError(t, err)
		require.NoError(t, a.Admit(t.Context(), "former", false))
		a.load = [2]int{2, 0}
		require.NoError(t, a.beat(t.Context()))
		b := newNode(t, client, 2)
		front.discover(t.Context())
		owner, err := front.Route(t.Context(), "user")
		require.NoError(t, err)
		require.Equal(t, b.ID(), owner.Instance)

		_, err = front.RouteTogether(t.Context(), "user", "former")
		require.ErrorIs(t, err, ErrDraining)
		require.NoError(t, a.beat(t.Context()))
		require.Eventually(t, func() bool { return len(a.evictions()) == 1 }, 10*time.Second, 10*time.Millisecond)
		require.Equal(t, []string{"former"}, a.evictions())
		require.NoError(t, a.Release(t.Context(), "former", false))

		owner, err = front.RouteTogether(t.Context(), "user", "former")
		require.NoError(t, err)
		require.Equal(t, b.ID(), owner.Instance)
		require.NoError(t, b.Admit(t.Context(), "former", false))
		require.ErrorIs(t, a.Admit(t.Context(), "former", false), ErrNotOwner)
	})
}

func TestRouteTogether_AnOwnerThatDrainsOrIsGoneGetsNobody(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		front := newRouter(client)
		_, err := front.Route(t.Context(), "former")
		require.NoError(t, err)
		require.NoError(t, a.Drain(t.Context()))
		b := newNode(t, client, 8)
		_, err = front.RouteTogether(t.Context(), "user", "former")
		require.ErrorIs(t, err, ErrDraining)
		require.NoError(t, client.Del(t.Context(), instanceKey(a.ID())).Err()) // its lease ran out
		owner, err := front.RouteTogether(t.Context(), "user", "former")
		require.NoError(t, err)
		require.Equal(t, b.ID(), owner.Instance)
		require.NoError(t, b.Admit(t.Context(), "former", false))
	})
}
