package pool_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
	"claudepool/pool/api"
)

// judge has the API answer whoever comes with a token of one of the users with the status.
func (s *service) judge(status int, users ...string) {
	tokens := make(map[string]bool)
	for _, user := range users {
		tokens[token(user)] = true
	}
	s.api.Admit(func(credential string) int {
		if tokens[credential] {
			return status
		}
		return 0
	})
}

// id is the user's id.
func (s *service) id(user string) string {
	req, err := api.DecodeCredential(fmt.Appendf(nil, `{"oauth_credentials":{"access_token":%q}}`, token(user)))
	require.NoError(s.t, err)
	return req.UserID()
}

// started is how many processes were started or claimed for users.
func (s *service) started() int { return strings.Count(s.logs.String(), `msg="process started"`) }

// left is what stands in the instance's folder beside its lock.
func (s *service) left() (names []string) {
	entries, err := os.ReadDir(s.root)
	require.NoError(s.t, err)
	for _, e := range entries {
		if e.Name() != ".lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

// empty awaits that nothing is left of anybody.
func (s *service) empty() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		reserved, _ := s.pool.Load()
		return len(s.left()) == 0 && s.pool.Conversations() == 0 && reserved == 0
	}, 10*time.Second, 5*time.Millisecond, "%v", s.left())
}

func TestAdmission_NothingIsLeftOfACredentialThatTheAPIRefused(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	s.judge(http.StatusUnauthorized, "eve")
	r := s.ask("eve", "hello", nil)
	require.Len(t, r.of("result"), 1, "the client sees the CLI's own word: %s", r.body)
	require.True(t, r.of("result")[0].Get("is_error").Bool())
	s.empty()
	require.Equal(t, []string{s.id("eve")}, s.owner.releasedUsers())
	require.False(t, s.owner.hasHome(s.id("eve")), "no key in Redis leads back here")
	require.Empty(t, s.api.Counts(), "while it is quiet nobody is asked twice")
}

func TestAdmission_WhoWaitsBehindARefusedTurnIsNotRun(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	s.judge(http.StatusUnauthorized, "eve")
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			response, err := s.start(t.Context(), "eve", "hello [[latency=200ms]]", nil)
			if assert.NoError(t, err) {
				read(response)
			}
		})
	}
	all.Wait()
	s.empty()
	require.Equal(t, 1, s.started())
}

func TestAdmission_ARefusalEndsNoMoreThanTheTurnOfWhomTheAPIOnceAccepted(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	s.ask("ada", "one", nil).text(t)
	require.Eventually(t, func() bool { return s.owner.Proven(s.id("ada")) }, time.Minute, 5*time.Millisecond,
		"other instances know")
	s.judge(http.StatusUnauthorized, "ada")
	require.True(t, s.ask("ada", "two", nil).of("result")[0].Get("is_error").Bool())
	s.judge(0)
	require.Equal(t, "reply to: three", s.ask("ada", "three", nil).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: three"}, s.lastCall().Messages())
	require.Empty(t, s.api.Counts())
}

func TestAdmission_WhoIsProvenElsewhereIsProvenHere(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 1 })
	require.NoError(t, s.owner.Prove(t.Context(), s.id("ada")))
	s.ask("bob", "one", nil).text(t)
	before := len(s.api.Counts())
	s.ask("ada", "one", nil).text(t)
	require.Equal(t, before, len(s.api.Counts()))
}

func TestAdmission_NoServerIsConnectedToForWhomTheAPIDoesntKnow(t *testing.T) {
	t.Parallel()
	servers := fields{"mcp_servers": fields{"tools": fields{"type": "http", "url": "http://127.0.0.1:1/"}}}
	for _, c := range []struct{ api, want int }{
		{http.StatusUnauthorized, 401}, {http.StatusForbidden, 503}, {http.StatusTooManyRequests, 503},
		{http.StatusInternalServerError, 503}, {0, 200},
	} {
		t.Run(fmt.Sprint(c.api), func(t *testing.T) {
			t.Parallel()
			s := newScriptedService(t, nil)
			s.judge(c.api, "eve")
			require.Equal(t, c.want, s.ask("eve", "hello", servers).status)
			require.Equal(t, 1, len(s.api.Counts()))
			if c.want != 200 {
				require.Zero(t, s.started())
				s.empty()
			}
		})
	}
}

func TestAdmission_WhereEveryPlaceIsTakenAStrangerTakesNobodys(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 1 })
	first := s.ask("ada", "one", nil)
	first.text(t)
	s.judge(http.StatusUnauthorized, "eve")
	r := s.ask("eve", "hello", nil)
	require.Equal(t, http.StatusUnauthorized, r.status, r.body)
	again := s.ask("ada", "two", nil)
	again.text(t)
	require.Equal(t, first.pid, again.pid)
	s.ask("bob", "one", nil).text(t) // whom the API accepts
}

func TestAdmission_AnUnprovenUsersIdleProcessGivesWayFirst(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 2 })
	first := s.ask("ada", "one", nil)
	first.text(t)
	s.judge(http.StatusTooManyRequests, "eve")
	require.True(t, s.ask("eve", "hello", nil).of("result")[0].Get("is_error").Bool())
	require.Eventually(t, func() bool { _, idle := s.pool.Load(); return idle == 2 }, time.Minute, 5*time.Millisecond)
	s.ask("bob", "one", nil).text(t)
	require.Equal(t, first.pid, s.ask("ada", "two", nil).pid, "though it was used before the other's")
}

func TestAdmission_AfterManyRefusalsTheAPIIsAskedFirst(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	var strangers []string
	for n := range 20 {
		strangers = append(strangers, fmt.Sprint("stranger", n))
	}
	s.judge(http.StatusUnauthorized, strangers...)
	statuses := make(map[int]int)
	for _, user := range strangers {
		statuses[s.ask(user, "hello", nil).status]++
	}
	require.Equal(t, map[int]int{200: 10, 401: 10}, statuses)
	require.Equal(t, 10, s.started())
	s.ask("ada", "one", nil).text(t)
	s.ask("ada", "two", nil).text(t)
	require.Equal(t, 11, len(s.api.Counts()), "ada's once")
}

// Fronts would send nobody to an instance whose places are taken by people who never get one.
func TestAdmission_WhoWaitsToBeLetInTakesNoPlace(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	asked := make(chan struct{})
	var once sync.Once
	s.api.Admit(func(string) int {
		once.Do(func() { close(asked) })
		<-t.Context().Done()
		return 0
	})
	go func() {
		if response, err := s.start(t.Context(), "eve", "hello",
			fields{"mcp_servers": fields{"tools": fields{"type": "http", "url": "http://127.0.0.1:1/"}}}); err == nil {
			read(response)
		}
	}()
	<-asked
	reserved, _ := s.pool.Load()
	require.Zero(t, reserved)
}

func TestPool_AUserWhoIsOnlyHeldTakesNoRoom(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	req, err := api.Decode([]byte(`{"api_key":"nobody's","messages":[{"role":"user","content":"hello"}]}`))
	require.NoError(t, err)
	letGo, err := s.pool.Hold(t.Context(), req, false)
	require.NoError(t, err)
	reserved, _ := s.pool.Load()
	require.Zero(t, reserved)
	require.Empty(t, s.owner.releasedUsers())
	letGo()
	require.Equal(t, []string{req.UserID()}, s.owner.releasedUsers())
}

func TestAdmission_ABurstOfTwentyNewUsersIsServedAtOnceAndTheNextIsAskedAbout(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 40 })
	for n := range 20 {
		before := len(s.api.Calls())
		response, err := s.start(t.Context(), fmt.Sprint("user", n), "hello [[latency=1m]]", nil)
		require.NoError(t, err)
		defer response.Body.Close()
		s.awaitCall(before)
	}
	require.Empty(t, s.api.Counts())
	s.ask("ada", "one", nil).text(t)
	require.Equal(t, 1, len(s.api.Counts()))
	s.judge(http.StatusInternalServerError, "bob")
	r := s.ask("bob", "one", nil)
	require.Equal(t, 529, r.status, "the API says nothing of anybody: %s", r.body)
	require.NotEmpty(t, r.header.Get("Retry-After"))
}

func TestAdmission_TheNextTokenOfAProvenUserIsNoStrangers(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	s.ask("ada", "one", nil).text(t)
	s.judge(http.StatusUnauthorized, "ada2")
	moved := fields{"oauth_credentials": fields{"access_token": token("ada2"), "previous_access_token": token("ada")}}
	require.True(t, s.ask("ada2", "two", moved).of("result")[0].Get("is_error").Bool())
	s.judge(0)
	require.Equal(t, "reply to: three", s.ask("ada2", "three", nil).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: three"}, s.lastCall().Messages(),
		"nothing was thrown away")
}

// Where more come than can be asked about, the time that each waits is no part of that which the API has: all would be
// too late, and count as people of whom the API can't say.
func TestAdmission_InACrowdOfStrangersTheHonestAreLetInAndNobodyElse(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	s.api.Admit(func(credential string) int {
		time.Sleep(100 * time.Millisecond)
		if strings.Contains(credential, "stranger") {
			return http.StatusUnauthorized
		}
		return 0
	})
	for n := range 10 {
		s.ask(fmt.Sprint("stranger", n), "hello", nil)
	}
	before := s.started()
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			response, err := s.start(t.Context(), fmt.Sprint("stranger-too", n), "hello", nil)
			if assert.NoError(t, err) {
				assert.Contains(t, []int{401, 529}, read(response).status)
			}
		})
	}
	all.Wait()
	require.Equal(t, before, s.started())
	s.ask("ada", "one", nil).text(t)
}

func TestAdmission_WhoHangsUpBeforeTheAPIHasSpokenCountsAsRefused(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) { o.MaxProcesses = 40 })
	for n := range 10 {
		s.occupy(fmt.Sprint("stranger", n), nil)
	}
	require.Empty(t, s.api.Counts())
}

// What the CLI answers by itself is no proof, nor is it kept, as what is kept would be one.
func TestAdmission_AnAnswerWithoutTheAPIProvesNobody(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	s := newScriptedService(t, keepingIn(store))
	require.NotEmpty(t, s.ask("eve", "[[events=1]]", nil).text(t))
	require.False(t, s.owner.Proven(s.id("eve")))
	s.judge(http.StatusUnauthorized, "eve")
	require.True(t, s.ask("eve", "hello", nil).of("result")[0].Get("is_error").Bool())
	s.empty()
	require.Empty(t, records(t, dir))
}

func TestAdmission_ManyRequestsOfOneStrangerAreOneQuestion(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, nil)
	s.api.Admit(func(string) int { time.Sleep(300 * time.Millisecond); return http.StatusUnauthorized })
	servers := fields{"mcp_servers": fields{"tools": fields{"type": "http", "url": "http://127.0.0.1:1/"}}}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			response, err := s.start(t.Context(), "eve", "hello", servers)
			if assert.NoError(t, err) {
				assert.Equal(t, http.StatusUnauthorized, read(response).status)
			}
		})
	}
	all.Wait()
	require.Less(t, len(s.api.Counts()), 20)
}
