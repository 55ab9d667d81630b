package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

// billedTurns is how many turns there are and of how many users; BILLED says other numbers.
func billedTurns() (turns, users int) {
	if n, err := fmt.Sscan(os.Getenv("BILLED"), &turns, &users); err == nil && n == 2 {
		return turns, users
	}
	return 160, 8
}

// billing is a deployment whose users are told what their turns took.
type billing struct {
	*deployment
	users int
	asked atomic.Int64
	mu    sync.Mutex     // guards tally
	tally map[string]int // how turns ended
}

func newBilling(t *testing.T, users int, env ...string) *billing {
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	d := prepare(t, cli)
	d.env = append(append(d.env, "DRAIN_TIMEOUT=4s", "STATS_TOKEN=operator"), env...)
	d.bin = programs(t)
	for range 2 {
		d.instance()
		d.front()
	}
	d.placeable(2)
	return &billing{deployment: d, users: users, tally: make(map[string]int)}
}

func userName(i int) string { return fmt.Sprint("user", i) }

// turn is one of one call or of two, whose client may hang up in the middle. It goes on then: what is interrupted ends
// at the API, and nobody can tell to the token how far it has come.
func (b *billing) turn(ctx context.Context, user int) {
	n := b.asked.Add(1)
	text := fmt.Sprintf("turn %d [[latency=%dms]] [[delay=%dms]] [[usage=%d %d %d %d %d]]", n, rand.N(300), rand.N(40),
		rand.N(5000), 1+rand.N(500), rand.N(5000), rand.N(300), rand.N(300))
	if n%4 == 0 {
		text += "[[tool=Bash {}]]"
	}
	request := client.Turn(credentials(userName(user))["access_token"], text)
	request["on_disconnect"] = "finish"
	request["model"] = []string{"claude-haiku-5-5", "claude-opus-5-5"}[n%2]
	if n%7 == 0 {
		var hangUp context.CancelFunc
		ctx, hangUp = context.WithTimeout(ctx, rand.N(400*time.Millisecond))
		defer hangUp()
	}
	outcome := "broke"
	if answer, err := b.client(rand.N(len(b.fronts))).Post(ctx, api.PathMessages, request, ""); err == nil {
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		outcome = strconv.Itoa(answer.StatusCode)
		if strings.Contains(string(text), `"type":"error"`) || !strings.HasSuffix(string(text), api.Done) {
			outcome += " failed"
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tally[outcome]++
}

// run has so many turns, of all users side by side.
func (b *billing) run(ctx context.Context, turns int) {
	var running sync.WaitGroup
	for user := range b.users {
		running.Go(func() {
			for range turns / b.users {
				b.turn(ctx, user)
			}
		})
	}
	running.Wait()
}

// killCLI kills a process of an instance, whichever.
func (b *billing) killCLI() (killed int) {
	for _, instance := range b.instances {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", instance.PID()))
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", instance.PID()))
		for _, task := range tasks {
			more, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", instance.PID(), task.Name()))
			children = append(append(children, ' '), more...)
		}
		pids := strings.Fields(string(children))
		if len(pids) == 0 {
			continue
		}
		pid, _ := strconv.Atoi(pids[rand.N(len(pids))])
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// disturb kills CLIs and fronts and drains owners until there is nobody to disturb.
func (b *billing) disturb(until <-chan struct{}) (clis, fronts, owners int) {
	for i := 0; ; i++ {
		select {
		case <-until:
			return clis, fronts, owners
		case <-time.After(rand.N(700 * time.Millisecond)):
		}
		switch i % 4 {
		case 1:
			b.replaceFront(rand.N(len(b.fronts)))
			fronts++
		case 3:
			owners += b.drainOwner(userName(rand.N(b.users)))
		default:
			clis += b.killCLI()
		}
	}
}

// get asks a front for what is at a path, and returns the status.
func (b *billing) get(path, token string, into any) int {
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.fronts[0]+path, nil)
	require.NoError(b.t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := b.http.Do(r)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	if json.NewDecoder(answer.Body).Decode(into) != nil {
		return 0
	}
	return answer.StatusCode
}

// counted is what a user is told.
func (b *billing) counted(user int) (took pooltest.Took, told bool) {
	var report api.UsageReport
	if b.get(api.PathUsage, credentials(userName(user))["access_token"], &report) != http.StatusOK {
		return took, false
	}
	t := report.Total
	return pooltest.Took{Input: t.Input, Output: t.Output, CacheRead: t.CacheRead, CacheWrite5m: t.CacheWrite5m,
		CacheWrite1h: t.CacheWrite1h}, true
}

// allCounted is what all users are told, when nothing is under way.
func (b *billing) allCounted() []pooltest.Took {
	b.t.Helper()
	all := make([]pooltest.Took, b.users)
	for user := range all {
		require.Eventually(b.t, func() (told bool) {
			all[user], told = b.counted(user)
			return told
		}, patience, 100*time.Millisecond)
	}
	return all
}

// billed is what the API has billed each user.
func (b *billing) billed() []pooltest.Took {
	by, all := b.api.Billed(), make([]pooltest.Took, b.users)
	for user := range all {
		all[user] = by[credentials(userName(user))["access_token"]]
	}
	return all
}

// requireExact requires that users are told what was billed, to the token.
func (b *billing) requireExact() {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return b.api.Open() == 0 }, patience, 10*time.Millisecond)
	for user, billed := range b.billed() {
		var counted pooltest.Took
		require.Eventually(b.t, func() bool {
			counted, _ = b.counted(user)
			return counted == billed
		}, patience, 50*time.Millisecond, "user %d: billed %v", user, billed)
	}
}

func TestBilled_UsersAreToldWhatTheAPIBilledWhateverBreaks(t *testing.T) {
	t.Parallel()
	turns, users := billedTurns()
	b := newBilling(t, users)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.run(t.Context(), turns)
	}()
	clis, fronts, owners := b.disturb(done)
	b.requireExact()
	t.Logf("%v; %d CLIs and %d fronts were killed and %d owners drained", b.tally, clis, fronts, owners)
	require.NotZero(t, clis)
	require.NotZero(t, fronts)
	require.NotZero(t, owners)
	require.Greater(t, b.tally["200"], turns/3)

	b.requireTurnsInFlightMissing()
	b.requireRedisRestored()
}

// requireTurnsInFlightMissing kills an instance while each user has a turn.
func (b *billing) requireTurnsInFlightMissing() {
	t := b.t
	before := b.billed()
	var running sync.WaitGroup
	for user := range b.users {
		running.Go(func() {
			text := fmt.Sprintf("last of %d [[latency=200ms]] [[pause=1s]] [[usage=7 7 7 7 7]]", user)
			b.ask(user%2, userName(user), text)
		})
	}
	require.Eventually(t, func() bool { return b.api.Open() >= b.users/2 }, patience, time.Millisecond)
	time.Sleep(rand.N(time.Second)) // some are answered by then
	for id, instance := range b.instances {
		instance.Kill()
		delete(b.instances, id)
		break
	}
	b.instance()
	running.Wait()
	require.Eventually(t, func() bool { return b.api.Open() == 0 }, patience, 10*time.Millisecond)
	time.Sleep(100 * time.Millisecond) // what has ended is written down a moment later
	counted := b.allCounted()
	missing := 0
	for user, billed := range b.billed() {
		if counted[user] != billed {
			missing++
			require.Equal(t, before[user], counted[user], "nothing is missing but that turn")
		}
	}
	t.Logf("%d turns are missing of %d that ran when an instance was killed", missing, b.users)
}

// requireRedisRestored has Redis lose everything.
func (b *billing) requireRedisRestored() {
	t, ctx := b.t, b.t.Context()
	require.NoError(t, b.redis.Del(ctx, "{claudepool}:usage:copied").Err(), "an hour later")
	require.Eventually(t, func() bool { return b.redis.Exists(ctx, "{claudepool}:usage:uncopied").Val() == 0 }, patience,
		50*time.Millisecond)
	before := b.allCounted()
	require.Eventually(t, func() bool { // as soon as the user has another owner
		b.turn(ctx, 0)
		return b.redis.Exists(ctx, "{claudepool}:usage:uncopied").Val() == 1
	}, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool { return b.api.Open() == 0 }, patience, 10*time.Millisecond)
	time.Sleep(100 * time.Millisecond) // what has ended is written down a moment later
	require.NotEqual(t, before, b.allCounted(), "which is lost")
	b.redisServer.Kill()
	b.startRedis()
	require.Equal(t, before, b.allCounted())
}
