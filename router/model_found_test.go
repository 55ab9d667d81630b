package router

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// stage is the model's network without its dice: a test says which command comes when.
func stage(t *testing.T) (net *network, lease func(id string) (*Lease, *link)) {
	t.Helper()
	net = &network{cluster: newCluster(t, 1), now: time.Hour, passed: time.Now(), sent: func(redis.Cmder) {}}
	net.load(t)
	return net, func(id string) (*Lease, *link) {
		link, client := net.newLink()
		l := NewLease(client, LeaseOptions{Logger: quiet, Addr: net.addr, Capacity: 4,
			Load: func() (int, int) { return 0, 0 }, Evict: func(string) {}, Clock: func() time.Duration { return net.now }})
		l.id = id
		require.NoError(t, l.beat(t.Context()))
		return l, link
	}
}

// settle lets a lease pass while an instance lives.
func (n *network) settle(t *testing.T, l *Lease) {
	t.Helper()
	for range 4 {
		require.NoError(t, n.pass(renewTime))
		require.NoError(t, l.beat(t.Context()))
	}
}

func TestLease_AnAnswerFromBeforeAReleaseIsNotAdoptedAfterIt(t *testing.T) {
	net, lease := stage(t)
	a, link := lease("a")
	_, err := newRouter(net.servers[0]).Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	link.up = false
	require.Error(t, a.Release(t.Context(), "ada", false))
	link.up = true

	admitted := make(chan error, 1)
	net.start(func(ctx context.Context) { admitted <- a.Admit(ctx, "ada", false) })
	require.NoError(t, net.execute(net.ops[0].call), "Redis has not been told yet, and says that the user is here")
	require.NoError(t, a.beat(t.Context()), "this tells it")
	require.Zero(t, net.servers[0].Exists(t.Context(), ownerKey("ada")).Val())
	net.deliver(net.ops[0])
	net.finish(nil, nil)
	require.ErrorIs(t, <-admitted, ErrNotOwner)
}

func TestLease_AUserGivenUpAndTakenAgainDuringAnAssertionHasNotMoved(t *testing.T) {
	net, lease := stage(t)
	a, _ := lease("a")
	_, err := newRouter(net.servers[0]).Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	moved := 0
	net.start(func(ctx context.Context) { _, moved, _ = a.assert(ctx) })

	require.NoError(t, a.Release(t.Context(), "ada", false))
	_, err = newRouter(net.servers[0]).Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	held := a.Held("ada")
	require.NoError(t, net.execute(net.ops[0].call), "the claim that it names is not the user's any more")
	net.deliver(net.ops[0])
	net.finish(nil, nil)
	require.Zero(t, moved)
	require.NoError(t, held.Err())
	require.NoError(t, a.Admit(t.Context(), "ada", false))
}

func TestLease_AMachineThatSleptWhileItReconciledIsNotFresh(t *testing.T) {
	net, lease := stage(t)
	a, _ := lease("a")
	_, err := newRouter(net.servers[0]).Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	require.NoError(t, net.servers[0].Del(t.Context(), instanceKey("a")).Err(), "its lease has ended")

	net.start(func(ctx context.Context) { _ = a.beat(ctx) })
	for range 2 { // the beat, and the one that registers anew
		require.NoError(t, net.execute(net.ops[0].call))
		net.deliver(net.ops[0])
	}
	require.NoError(t, net.execute(net.ops[0].call), "the assertion")
	require.NoError(t, net.pass(LeaseTime))
	net.deliver(net.ops[0])
	require.Empty(t, net.ops)
	require.ErrorIs(t, a.Admit(t.Context(), "ada", false), ErrNotOwner, "anybody may have taken the user meanwhile")
}

func TestLease_ALateRegistrationDoesntBringALeaseBack(t *testing.T) {
	net, lease := stage(t)
	a, _ := lease("a")
	front := newRouter(net.servers[0])
	_, err := front.Route(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, a.Admit(t.Context(), "ada", false))
	require.NoError(t, net.servers[0].Del(t.Context(), instanceKey("a")).Err(), "its lease has ended")
	net.start(func(ctx context.Context) { _ = a.beat(ctx) })
	require.NoError(t, net.execute(net.ops[0].call))
	net.deliver(net.ops[0])
	late := net.ops[0].call.cmds[0].Args()
	net.resume(net.ops[0], errLost)
	require.NoError(t, a.beat(t.Context()), "it is registered by another try")
	require.NoError(t, a.Admit(t.Context(), "ada", false))

	require.NoError(t, net.pass(LeaseTime))
	b, _ := lease("b")
	net.settle(t, b)
	owner, err := newRouter(net.servers[0]).Route(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, "b", owner.Instance)
	require.NoError(t, b.Admit(t.Context(), "ada", false))
	net.again(late)
	require.NoError(t, a.beat(t.Context()))
	require.ErrorIs(t, a.Admit(t.Context(), "ada", false), ErrNotOwner)
}

func TestLease_ABeatUnderWayDoesntUndoADrain(t *testing.T) {
	net, lease := stage(t)
	a, _ := lease("a")
	net.start(func(ctx context.Context) { _ = a.beat(ctx) })
	require.NoError(t, a.Drain(t.Context()))
	require.NoError(t, net.execute(net.ops[0].call), "it was sent before")
	net.finish(nil, nil)
	_, err := newRouter(net.servers[0]).Route(t.Context(), "ada")
	require.ErrorIs(t, err, ErrUnavailable)
}

func TestRouter_AfterAnOutageOfEverybodyNobodyIsPlacedUntilAllHaveBeaten(t *testing.T) {
	for _, asked := range []bool{false, true} {
		net, lease := stage(t)
		a, _ := lease("a")
		_, err := newRouter(net.servers[0]).Route(t.Context(), "ada")
		require.NoError(t, err)
		require.NoError(t, a.Admit(t.Context(), "ada", false))

		require.NoError(t, net.pass(LeaseTime+2*time.Second))
		if asked {
			_, err = newRouter(net.servers[0]).Route(t.Context(), "bob")
			require.ErrorIs(t, err, ErrUnavailable)
			require.NoError(t, net.pass(LeaseTime))
		}
		lease("b")
		front := newRouter(net.servers[0])
		front.discover(t.Context())
		_, err = front.Route(t.Context(), "ada")
		require.ErrorIs(t, err, ErrUnavailable, "her instance lives, and is later than the other")
		require.NoError(t, a.beat(t.Context()))
		owner, err := front.Route(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "a", owner.Instance, "who is owned needn't wait")
		net.settle(t, a)
		_, err = front.Route(t.Context(), "bob")
		require.NoError(t, err)
	}
}

func TestRouter_InstancesWhoseBeatsArentKeptAreWaitedForOnce(t *testing.T) {
	net, lease := stage(t)
	lease("a")
	front := newRouter(net.servers[0])
	front.discover(t.Context())
	goOn := func() { // as one of an earlier release does
		require.NoError(t, net.pass(LeaseTime*6/10))
		require.NoError(t, net.servers[0].PExpire(t.Context(), instanceKey("a"), LeaseTime).Err())
	}
	goOn()
	_, err := front.Route(t.Context(), "ada")
	require.ErrorIs(t, err, ErrUnavailable)
	for range 3 {
		goOn()
	}
	_, err = front.Route(t.Context(), "ada")
	require.NoError(t, err)
}
