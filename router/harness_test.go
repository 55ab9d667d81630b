package router

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
)

var quiet = slog.New(slog.DiscardHandler)

// newRedis returns a client of an empty, settled Redis: a real server, or where embedded the one that infra/local has.
func newRedis(t *testing.T, embedded bool) *redis.Client {
	t.Helper()
	addr := ""
	if embedded {
		addr = miniredis.RunT(t).Addr()
	} else {
		addr = testkit.Redis(t)
	}
	client, err := NewClient("redis://"+addr, "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, 30*time.Second,
		10*time.Millisecond)
	require.NoError(t, EndSettling(t.Context(), client))
	return client
}

// both runs a test against a real server and against the embedded one.
func both(t *testing.T, test func(t *testing.T, client *redis.Client)) {
	for _, embedded := range []bool{false, true} {
		t.Run(fmt.Sprintf("embedded=%t", embedded), func(t *testing.T) { test(t, newRedis(t, embedded)) })
	}
}

// node is an instance as a test sees it.
type node struct {
	*Lease
	mu      sync.Mutex
	now     time.Duration
	load    [2]int
	full    bool
	evicted []string
}

// fingerprint is one that nobody else has.
func (n *node) fingerprint() string { return fmt.Sprintf("%p", n) }

func (n *node) evictions() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.evicted...)
}

func (n *node) passes(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now += d
}

// newNode returns a registered instance that fronts can dial.
func newNode(t *testing.T, client Redis, capacity int) *node {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	n := &node{now: time.Hour}
	n.Lease = NewLease(client, LeaseOptions{Logger: quiet, Addr: listener.Addr().String(), Fingerprint: n.fingerprint(),
		Capacity: capacity, HomeTTL: time.Hour,
		Load: func() (int, int) { n.mu.Lock(); defer n.mu.Unlock(); return n.load[0], n.load[1] },
		Full: func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.full },
		Evict: func(user string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.evicted = append(n.evicted, user)
		},
		Clock: func() time.Duration { n.mu.Lock(); defer n.mu.Unlock(); return n.now },
	})
	require.NoError(t, n.beat(t.Context()))
	return n
}

func newRouter(client Redis) *Router { return New(client, Options{Logger: quiet, Reach: reachPlain}) }

func reachPlain(_ context.Context, owner Owner) error {
	conn, err := net.Dial("tcp", owner.Addr)
	if err != nil {
		return err
	}
	return conn.Close()
}
