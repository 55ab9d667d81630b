package pool_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool"
	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/cli"
	"claudepool/pool/pooltest"
)

// claims is how many standbys are claimed in the claim test: `go test ./pool -run Claims -claims 10000`.
var claims = flag.Int64("claims", 60, "standbys that are claimed in the claim test")

var saidBy = regexp.MustCompile(`I am (user-\d+)`)

// More new users come at once than there are standbys, some hang up in the middle of their claim, some standbys are
// killed at any moment. Still nobody gets a process that was another's, and no call carries a credential or a system
// prompt but that of the user it speaks for.
func TestClaims_AStandbyIsOneUsersAndNobodyElses(t *testing.T) {
	var claimed atomic.Int64
	const standbys, crowd = 6, 9
	s := newScriptedService(t, func(o *pool.Options) {
		o.Standby, o.MaxProcesses = standbys, 24
		o.SetQuiet(0)
		o.OnClaim(func(*cli.Process) { claimed.Add(1) })
	})
	s.awaitStandbys(standbys)
	stopKilling := s.killSomeStandbys()
	c := claimants{service: s, sessions: map[string]string{}, kinds: map[string]int{}}
	users := 0
	for ; claimed.Load() < *claims; users += crowd {
		s.awaitStandbys(standbys)
		var all sync.WaitGroup
		for i := range crowd {
			all.Go(func() { c.come(users + i) })
		}
		all.Wait()
	}
	stopKilling()
	for _, call := range s.api.Calls() {
		requireOneUsers(t, call)
	}
	t.Logf("%d users, %d standbys claimed, answered by %v", users, claimed.Load(), c.kinds)
	require.Positive(t, c.kinds[pool.ProcessStandby])
}

// claimants are users of whom each comes once.
type claimants struct {
	*service

	mu       sync.Mutex
	sessions map[string]string // whose they are
	kinds    map[string]int    // answers by how their process was found
}

// come is one user's visit. Every fourth hangs up first and comes again.
func (c *claimants) come(i int) {
	user, more := fmt.Sprint("user-", i), fields{}
	maps.Copy(more, systemOf(i))
	if i%3 == 0 {
		more["session_id"] = uuid.NewString()
	}
	if rand.N(4) == 0 {
		c.hangUpSoon(user, more)
	}
	r := c.ask(user, "I am "+user, more)
	c.giveUp(userID(user))
	if r.status != 200 || len(r.of("result")) != 1 {
		// killed while it was being made ready, or before its message was sent
		assert.Contains(c.t, []int{200, 502, 503, 529}, r.status, r.body)
		return
	}
	assert.Equal(c.t, "reply to: I am "+user, r.text(c.t), r.process+" "+r.body)
	c.mu.Lock()
	defer c.mu.Unlock()
	session := r.of("result")[0].Get("session_id").Str
	assert.Empty(c.t, c.sessions[session], "the conversation of another")
	for _, id := range ids(r) {
		assert.Contains(c.t, []any{id, nil}, more["session_id"], "it is of the user's choice")
	}
	c.sessions[session] = user
	c.kinds[r.process]++
}

// requireOneUsers checks that all in a call is of the same user.
func requireOneUsers(t *testing.T, call pooltest.Call) {
	t.Helper()
	said := call.Messages()
	require.NotEmpty(t, said)
	for _, line := range said {
		name := saidBy.FindStringSubmatch(line)
		require.NotNil(t, name, line)
		require.Equal(t, "Bearer "+token(name[1]), call.Header.Get("Authorization"))
		var i int
		_, err := fmt.Sscanf(name[1], "user-%d", &i)
		require.NoError(t, err)
		system, _ := systemOf(i)["system"].(string)
		require.Equal(t, system, gjson.GetBytes(call.Body, "system").Str, "of %s", name[1])
	}
	require.NotContains(t, string(call.Body), "warm-up")
}

func userID(user string) string {
	request := api.Request{OAuth: &api.OAuthCredentials{AccessToken: token(user)}}
	return request.UserID()
}

// giveUp ends the user's processes and waits for it, so that the next has room.
func (s *service) giveUp(id string) {
	for slices.Contains(s.pool.Users(), id) {
		s.pool.Evict(id)
		time.Sleep(5 * time.Millisecond)
	}
}

// systemOf gives every fourth user a system prompt.
func systemOf(i int) fields {
	if i%4 == 0 {
		return fields{"system": "be brief"}
	}
	return nil
}

// hangUpSoon sends a request and goes away at any moment of it.
func (s *service) hangUpSoon(user string, more fields) {
	ctx, cancel := context.WithTimeout(context.Background(), rand.N(20*time.Millisecond))
	defer cancel()
	if response, err := s.start(ctx, user, "I am "+user, more); err == nil {
		read(response)
	}
}

// killSomeStandbys kills one of all processes now and then, until it is told to stop.
func (s *service) killSomeStandbys() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var killer sync.WaitGroup
	killer.Go(func() {
		for ctx.Err() == nil {
			if pids := s.processes(); len(pids) > 0 {
				var pid int
				_, _ = fmt.Sscan(strings.TrimSpace(pids[rand.N(len(pids))]), &pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			time.Sleep(500 * time.Millisecond)
		}
	})
	return func() {
		cancel()
		killer.Wait()
	}
}

// What goes wrong between the claim and the first turn costs the standby, and neither its user's answer nor anybody's
// secret.
func TestClaims_WhatGoesWrongBeforeTheTurnIsNobodyElsesConcern(t *testing.T) {
	var fault atomic.Pointer[func(*cli.Process)]
	s := newScriptedService(t, func(o *pool.Options) {
		o.Standby = 1
		o.OnClaim(func(p *cli.Process) {
			if f := fault.Swap(nil); f != nil {
				(*f)(p)
			}
		})
	})
	var pid string // of the standby that was taken
	during := func(f func(*cli.Process)) {
		s.awaitStandbys(1)
		seen := func(p *cli.Process) {
			pid = strconv.Itoa(p.PID())
			f(p)
		}
		fault.Store(&seen)
	}
	gone := func() {
		t.Helper()
		require.Eventually(t, func() bool { return !exists(pid) }, time.Minute, 5*time.Millisecond)
	}
	said := func(user string, want ...string) {
		t.Helper()
		require.Equal(t, want, s.lastCall().Messages())
		require.Equal(t, "Bearer "+token(user), s.lastCall().Header.Get("Authorization"))
	}

	during(func(p *cli.Process) { p.Kill() })
	r := s.ask("ada", "one", nil)
	require.Equal(t, "reply to: one", r.text(t), "it died")
	said("ada", "user: one")
	require.NotEqual(t, pid, r.pid)
	gone()

	during(func(p *cli.Process) {
		assert.NoError(t, p.Signal(syscall.SIGSTOP)) // what is asked of it stays unanswered
		awaitState(t, pid, "T")
		time.AfterFunc(50*time.Millisecond, p.Kill)
	})
	r = s.ask("abe", "one", nil)
	require.Equal(t, "reply to: one", r.text(t), "it died while it was being fitted")
	said("abe", "user: one")
	require.NotEqual(t, pid, r.pid)
	gone()

	before := len(s.api.Calls())
	during(func(p *cli.Process) { assert.NoError(t, p.Bind(broker.Credential{OAuthToken: token("eve")})) })
	require.Equal(t, http.StatusServiceUnavailable, s.ask("bob", "one", nil).status, "it is another's")
	require.Len(t, s.api.Calls(), before)
	gone()
	require.Equal(t, "reply to: two", s.ask("bob", "two", nil).text(t))
	said("bob", "user: two")

	before = len(s.api.Calls())
	body, finish := io.Pipe()
	answer := make(chan reply, 1)
	var busy *cli.Process
	during(func(p *cli.Process) {
		busy = p
		r, err := http.NewRequest(http.MethodPost, p.BrokerURL()+"/v1/messages", body)
		assert.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+p.Secret())
		go func() {
			if response, err := http.DefaultClient.Do(r); err == nil {
				answer <- read(response)
			}
			close(answer)
		}()
		assert.Eventually(t, func() bool { return p.Calls() == 1 }, 20*time.Second, time.Millisecond)
	})
	r = s.ask("cleo", "one", nil)
	require.Equal(t, "reply to: one", r.text(t), "a call of it was under way")
	require.NotEqual(t, pid, r.pid)
	gone()
	require.Eventually(t, func() bool { return busy.Calls() == 0 }, 20*time.Second, time.Millisecond,
		"it ends with its process")
	require.NoError(t, finish.Close()) // or the client would wait for it
	require.Zero(t, (<-answer).status)
	require.Len(t, s.api.Calls(), before+1)
	said("cleo", "user: one")

	before = len(s.api.Calls())
	ctx, hangUp := context.WithCancel(t.Context())
	during(func(*cli.Process) {
		hangUp()
		assert.Eventually(t, func() bool { return strings.Contains(s.logs.String(), "client gone") }, 20*time.Second,
			time.Millisecond)
	})
	_, err := s.start(ctx, "dan", "one", nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "reply to: other", s.ask("fay", "other", nil).text(t))
	said("fay", "user: other")
	r = s.ask("dan", "two", nil)
	require.Equal(t, "reply to: two", r.text(t))
	require.Equal(t, pool.ProcessReused, r.process, "it had been made ready for who went")
	require.Equal(t, pid, r.pid)
	said("dan", "user: two")
	require.Len(t, s.api.Calls(), before+2)
}
