package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// cutOff has a front reach no instance, while it says so.
func cutOff(front *Router) *atomic.Bool {
	cut := &atomic.Bool{}
	front.opts.Reach = func(ctx context.Context, owner Owner) error {
		if cut.Load() {
			return errors.New("cut off")
		}
		return reachPlain(ctx, owner)
	}
	return cut
}

// While Redis is away nobody else can say where a user is.
func TestRouter_OneFailedDialForgetsNobodyWhileRedisIsAway(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		opts := *client.Options()
		var away atomic.Bool
		opts.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if away.Load() {
				return nil, errors.New("away")
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		opts.ConnMaxLifetime, opts.MaxRetries = time.Nanosecond, -1 // a connection for each command
		own := redis.NewClient(&opts)
		defer own.Close()
		front := newRouter(own)
		cut := cutOff(front)
		o, err := front.Route(t.Context(), "ada")
		require.NoError(t, err)
		require.NoError(t, a.Admit(t.Context(), "ada", false))

		away.Store(true)
		_, err = front.Route(t.Context(), "bob")
		require.ErrorIs(t, err, ErrUnavailable)
		cut.Store(true)
		front.Unreachable(t.Context(), "ada", o)
		cut.Store(false)
		again, err := front.Route(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, o.Instance, again.Instance)
		require.True(t, again.Outage)
		away.Store(false)
	})
}

// A user who is given up loses the place behind a running turn, and the process.
func TestRouter_OneFailedDialMovesNobody(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		front := newRouter(client)
		cut := cutOff(front)
		o, err := front.Route(t.Context(), "ada")
		require.NoError(t, err)
		require.NoError(t, a.Admit(t.Context(), "ada", false))
		newNode(t, client, 8)

		cut.Store(true)
		for range maxFailed - 1 {
			front.Unreachable(t.Context(), "ada", o)
			front.dialAvoided(t.Context())
			_, err = front.Route(t.Context(), "ada")
			require.ErrorIs(t, err, ErrUnavailable, "its lease lives")
		}
		require.Zero(t, client.Exists(t.Context(), evictKey(a.ID())).Val())
		cut.Store(false)
		front.dialAvoided(t.Context())
		again, err := front.Route(t.Context(), "ada")
		require.NoError(t, err, "at once, now that it is reached")
		require.Equal(t, o, again)
		cut.Store(true)
		front.Unreachable(t.Context(), "ada", o)
		front.dialAvoided(t.Context())
		_, err = front.Route(t.Context(), "ada")
		require.ErrorIs(t, err, ErrUnavailable)
		require.Zero(t, client.Exists(t.Context(), evictKey(a.ID())).Val(), "what was before it was reached doesn't count")
	})
}

func TestRouter_AnOwnerThatCantBeDialledForLongIsAskedToGiveTheUserUp(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		a := newNode(t, client, 8)
		front := newRouter(client)
		cut := cutOff(front)
		o, err := front.Route(t.Context(), "ada")
		require.NoError(t, err)
		require.NoError(t, a.Admit(t.Context(), "ada", false))
		b := newNode(t, client, 8)

		cut.Store(true)
		front.Unreachable(t.Context(), "ada", o)
		for range maxFailed {
			front.dialAvoided(t.Context())
		}
		_, err = front.Route(t.Context(), "ada")
		require.ErrorIs(t, err, ErrUnavailable)
		require.NoError(t, a.beat(t.Context()))
		require.Eventually(t, func() bool { return len(a.evictions()) == 1 }, 10*time.Second, time.Millisecond)
		require.NoError(t, a.Release(t.Context(), "ada", false))
		cut.Store(false)
		front.discover(t.Context())
		o, err = front.Route(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, b.ID(), o.Instance)
	})
}

func TestRouter_AnInstanceThatIsGoneIsNotDialledForEver(t *testing.T) {
	client := newRedis(t, false)
	a := newNode(t, client, 8)
	front := newRouter(client)
	cutOff(front).Store(true)
	front.Unreachable(t.Context(), "ada", Owner{Instance: a.ID()})
	require.NoError(t, client.Del(t.Context(), instanceKey(a.ID())).Err()) // its lease ran out
	front.dialAvoided(t.Context())
	require.Empty(t, front.avoided(), "it is gone: nobody can be placed there anyway")
	asked := &counting{}
	client.AddHook(asked)
	front.dialAvoided(t.Context())
	require.Zero(t, asked.n)
	front.avoid[a.ID()] = avoidance{until: time.Now().Add(-time.Second)} // as time passes
	front.dialAvoided(t.Context())
	require.Empty(t, front.avoid)
}

// stuck is a Redis that answers no script until it is let go on.
type stuck struct {
	Redis
	goOn chan struct{}
}

func (s stuck) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	<-s.goOn
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(errors.New("away"))
	return cmd
}

// Whoever asks and hangs up leaves a claim behind, so their number is bounded, and others are told at once.
func TestRouter_RequestsThatHungUpDontPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		redis := stuck{goOn: make(chan struct{})}
		goOn := sync.OnceFunc(func() { close(redis.goOn) })
		defer goOn()
		front := newRouter(redis)
		gone, hangUp := context.WithCancel(t.Context())
		hangUp()
		for i := range maxClaims + 1000 {
			_, err := front.Route(gone, fmt.Sprint("stranger", i))
			require.Error(t, err)
			synctest.Wait()
		}
		require.EqualValues(t, maxClaims, front.openClaims.Load())
		_, err := front.Route(t.Context(), "ada")
		require.ErrorIs(t, err, ErrUnavailable)
		goOn()
		synctest.Wait()
		require.Zero(t, front.openClaims.Load())
	})
}
