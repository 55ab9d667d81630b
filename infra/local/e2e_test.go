package main

import (
	"context"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/client"
	"claudepool/infra/testkit/need"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

func TestDeployment_ThreeHundredFirstRequestsMakeOneProcess(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	d := prepare(t, cli)
	d.deploy()
	d.askAtOnce(300)
	require.Equal(t, 1, d.said("process started"))
	eventuallyStats(t, d.client(1), func(s api.Stats) bool { return s.PoolSize == 1 && len(s.ActiveUsers) == 1 })

	t.Run("limits", func(t *testing.T) { testLimits(t, d) })
}

func TestDeployment_OneProcessPerUserWhicheverFrontIsAsked(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.RealCLI()
	d := prepare(t, need.Part(t, cli, err))
	d.ownDatabase()
	d.deploy()
	d.askAtOnce(20)
	for _, user := range []string{"bob", "cleo", "dan"} {
		requireAnswer(t, d.ask(0, user, "hello"), "hello")
	}
	for front := range d.fronts {
		eventuallyStats(t, d.client(front), func(s api.Stats) bool {
			return len(s.ActiveUsers) == 4 && len(s.Instances) == 3 && !s.Stale
		})
	}

	t.Run("token replaced, conversations deleted", func(t *testing.T) { testReplacedToken(t, d) })
	t.Run("Firestore away", func(t *testing.T) { testFirestoreAway(t, d) })
	t.Run("Redis away", func(t *testing.T) { testRedisAway(t, d) })
	t.Run("interactive", func(t *testing.T) { testInteractive(t, d) })
	t.Run("SIGTERM", func(t *testing.T) { testTerm(t, d) })
	t.Run("SIGKILL", func(t *testing.T) { testKill(t, d) })
}

// testReplacedToken: who has the new token and the one before finds process and conversation, through any front.
func testReplacedToken(t *testing.T, d *deployment) {
	before := d.ask(0, "ivy", "mine")
	requireAnswer(t, before, "mine")
	both := credentials("ivy-new")
	both["previous_access_token"] = credentials("ivy")["access_token"]
	for i, text := range []string{"still mine", "still", "again"} {
		g := d.post(1-i%2, api.PathMessages, both, text)
		requireAnswer(t, g, text)
		require.Equal(t, before.pid, g.pid)
	}
	require.Equal(t, "user: mine", d.context("again")[0])
	require.Equal(t, "{\"deleted\":1}\n", d.post(0, api.PathDelete, credentials("ivy-new"), "").body)
	requireAnswer(t, d.ask(1, "ivy-new", "hello"), "hello")
	require.Equal(t, []string{"user: hello"}, d.context("hello"))
	require.Equal(t, "{\"deleted\":1}\n", d.post(1, api.PathDelete, credentials("ivy-new"), "").body)
}

// testTerm ends the instance that owns ada in the middle of a turn.
func testTerm(t *testing.T, d *deployment) {
	owner := d.ask(0, "ada", "who").instance
	long := make(chan got)
	go func() { long <- d.ask(0, "ada", "long [[words=40]][[delay=50ms]]") }()
	require.Eventually(t, func() bool { return d.asked("long [[words=40]][[delay=50ms]]") != nil }, patience,
		20*time.Millisecond)
	d.instances[owner].Signal(syscall.SIGTERM)
	require.Eventually(t, func() bool {
		return d.redis.HGet(context.Background(), "{claudepool}:instance:"+owner, "draining").Val() != "0"
	}, patience, 5*time.Millisecond)
	next := make(chan got)
	go func() { next <- d.ask(1, "ada", "next") }()

	g := <-long
	require.Equal(t, http.StatusOK, g.status, g.body)
	require.Contains(t, g.body, `"type":"result"`)
	g = <-next
	requireAnswer(t, g, "next")
	require.NotEqual(t, owner, g.instance)
	require.Contains(t, d.context("next"), "user: long [[words=40]][[delay=50ms]]", "the conversation goes on elsewhere")
	require.Eventually(t, func() bool {
		for _, key := range d.redis.Keys(context.Background(), "{claudepool}:*").Val() {
			value, _ := d.redis.Get(context.Background(), key).Result()
			if strings.Contains(key, owner) && !strings.Contains(key, ":ended:") || strings.HasPrefix(value, owner) {
				return false
			}
		}
		return true
	}, patience, 50*time.Millisecond, "nothing of the instance is left in Redis, but that it has ended")
}

// testKill kills the instance that owns ada.
func testKill(t *testing.T, d *deployment) {
	owner := d.ask(0, "ada", "remember this").instance
	other := ""
	for _, user := range []string{"bob", "cleo", "dan", "eve", "fay", "gus", "hal"} {
		if d.ask(0, user, "who").instance != owner {
			other = user
			break
		}
	}
	require.NotEmpty(t, other)
	d.awaitKept("ada", "remember this")
	require.Equal(t, owner, d.owner("ada"))
	killed := time.Now()
	d.instances[owner].Signal(syscall.SIGKILL)
	moved := make(chan time.Duration, 1)
	go func() {
		for d.owner("ada") == owner && time.Since(killed) < patience {
			time.Sleep(20 * time.Millisecond)
		}
		moved <- time.Since(killed)
	}()
	var g got
	for g.status != http.StatusOK && time.Since(killed) < patience {
		requireAnswer(t, d.ask(1, other, "still there"), "still there")
		time.Sleep(250 * time.Millisecond)
		g = d.ask(0, "ada", "again")
	}
	requireAnswer(t, g, "again")
	require.NotEqual(t, owner, g.instance)
	require.Contains(t, d.context("again"), "user: remember this", "the conversation goes on elsewhere")
	after := <-moved
	t.Logf("owned by another after %s", after)
	require.Less(t, after, 30*time.Second)
}

func eventuallyStats(t *testing.T, front *client.Client, want func(api.Stats) bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		stats, err := front.Stats(t.Context())
		return err == nil && want(stats)
		// the client library waits ever longer before it looks for a database that was away
	}, 3*patience, 200*time.Millisecond)
}

// testFirestoreAway: requests are not affected, and the stats stay as they were but say that they are stale.
func testFirestoreAway(t *testing.T, d *deployment) {
	d.firestore.Kill()
	requireAnswer(t, d.ask(0, "ada", "without stats"), "without stats")
	eventuallyStats(t, d.client(0), func(s api.Stats) bool { return s.Stale && len(s.ActiveUsers) == 4 })
	requireAnswer(t, d.ask(1, "bob", "still"), "still")
	d.startFirestore()
	eventuallyStats(t, d.client(0), func(s api.Stats) bool { return !s.Stale && len(s.ActiveUsers) == 4 })
}

// testRedisAway: a Redis that is away for 20 s and comes back empty costs known users nothing.
func testRedisAway(t *testing.T, d *deployment) {
	users := []string{"ada", "bob", "cleo", "dan"}
	pids := map[string]string{}
	for _, user := range users {
		pids[user] = d.ask(0, user, "before").pid
	}
	everybody := func(when string) {
		for _, user := range users {
			g := d.ask(0, user, when)
			requireAnswer(t, g, when)
			require.Equal(t, pids[user], g.pid, "%s %s", user, when)
		}
	}
	d.redisServer.Kill()
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(time.Second) {
		everybody("away")
		require.Equal(t, http.StatusServiceUnavailable, d.ask(0, "newcomer", "hello").status)
	}
	require.Eventually(t, func() bool { return d.tellers("Redis is away") == len(d.fronts)+len(d.instances) }, patience,
		time.Second,
		"each process tells it")
	d.startRedis()
	for start := time.Now(); time.Since(start) < 12*time.Second; time.Sleep(500 * time.Millisecond) {
		everybody("back")
	}
	require.Eventually(t, func() bool { return d.ask(0, "newcomer", "hello").status == http.StatusOK }, patience,
		250*time.Millisecond)
	for _, user := range users {
		require.Equal(t, pids[user], d.ask(1, user, "after").pid, "the other front finds the same process")
	}
	require.Equal(t, len(d.fronts)+len(d.instances), d.said("Redis is away"), "and tells it once")
}
