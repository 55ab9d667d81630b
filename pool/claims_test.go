package pool_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool"
	"claudepool/pool/api"
)

// claims is how many new users the claim test lets come: `go test ./pool -run Claims -claims 10000`.
var claims = flag.Int("claims", 150, "new users of the claim test")

var saidBy = regexp.MustCompile(`I am (user-\d+)`)

// New users come all at once, some hang up in the middle of their claim, some standbys are killed at any moment. Still
// nobody gets a process that was another's, and no call carries a credential but that of the user it speaks for.
func TestClaims_AStandbyIsOneUsersAndNobodyElses(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.Standby, o.MaxProcesses = 6, 24 })
	s.awaitStandbys(6)
	stopKilling := s.killSomeStandbys()
	var (
		mu       sync.Mutex
		sessions = map[string]string{}
		kinds    = map[string]int{}
		users    sync.WaitGroup
	)
	crowd := make(chan struct{}, 12)
	for i := range *claims {
		crowd <- struct{}{}
		users.Go(func() {
			defer func() { <-crowd }()
			user := fmt.Sprint("user-", i)
			if rand.N(4) == 0 {
				s.hangUpSoon(user)
			}
			r := s.ask(user, "I am "+user, systemOf(i))
			s.giveUp(userID(user))
			if r.status != 200 || len(r.of("result")) != 1 {
				require.Contains(t, []int{200, 503, 529}, r.status, r.body) // killed while it was being made ready
				return
			}
			require.Equal(t, "reply to: I am "+user, r.text(t), r.process+" "+r.body)
			mu.Lock()
			defer mu.Unlock()
			session := r.of("result")[0].Get("session_id").Str
			require.Empty(t, sessions[session], "the conversation of another")
			sessions[session] = user
			kinds[r.process]++
		})
	}
	users.Wait()
	stopKilling()
	for _, call := range s.api.Calls() {
		said := call.Messages()
		require.NotEmpty(t, said)
		for _, line := range said {
			name := saidBy.FindStringSubmatch(line)
			require.NotNil(t, name, line)
			require.Equal(t, "Bearer "+token(name[1]), call.Header.Get("Authorization"))
		}
		require.NotContains(t, string(call.Body), "warm-up")
	}
	t.Logf("%d users: %v", *claims, kinds)
	require.Positive(t, kinds[pool.ProcessStandby])
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
func (s *service) hangUpSoon(user string) {
	ctx, cancel := context.WithTimeout(context.Background(), rand.N(20*time.Millisecond))
	defer cancel()
	if response, err := s.start(ctx, user, "I am "+user, nil); err == nil {
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
			time.Sleep(100 * time.Millisecond)
		}
	})
	return func() {
		cancel()
		killer.Wait()
	}
}
