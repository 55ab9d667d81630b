package pool_test

import (
	"context"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
	"claudepool/infra/settings"
	"claudepool/infra/testkit"
	"claudepool/infra/usage"
	"claudepool/pool"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

// counting is a service that counts what users' turns take.
type counting struct {
	*service
	reader *usage.Reader
}

func newCounting(t *testing.T, change func(*pool.Options)) counting {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: testkit.Redis(t)})
	t.Cleanup(func() { _ = client.Close() })
	require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, time.Minute, time.Millisecond)
	c := counting{reader: usage.NewReader(client)}
	c.service = newService(t, func(o *pool.Options) {
		o.Ledger, o.Usage = usage.NewLedger(client, o.Logger), c.reader
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		for _, run := range []func(context.Context){o.Ledger.Run, usage.NewKeeper(client, nil, o.Logger).Run} {
			go func() {
				defer func() { ended <- struct{}{} }()
				run(ctx)
			}()
		}
		t.Cleanup(func() {
			stop()
			<-ended
			<-ended
		})
		if change != nil {
			change(o)
		}
	})
	require.Eventually(t, func() bool { _, err := c.reader.Spent(t.Context(), "x", 1); return err == nil }, time.Minute,
		time.Millisecond)
	return c
}

// requireCounted requires that a user's calls of the API are counted as it says, and as those of nobody else.
func (c counting) requireCounted(user string) {
	c.t.Helper()
	who := api.Request{OAuth: &api.OAuthCredentials{AccessToken: token(user)}}
	require.Eventually(c.t, func() bool { return c.api.Open() == 0 }, time.Minute, time.Millisecond)
	var counted pooltest.Took
	require.Eventually(c.t, func() bool {
		rows, err := c.reader.Of(c.t.Context(), who.UserID(), []string{usage.Day(time.Now())})
		require.NoError(c.t, err)
		counted = pooltest.Took{}
		for _, r := range rows {
			counted = counted.Plus(pooltest.Took{Input: r.Input, Output: r.Output, CacheRead: r.CacheRead,
				CacheWrite5m: r.CacheWrite5m, CacheWrite1h: r.CacheWrite1h})
		}
		return counted == c.api.Billed()[token(user)]
	}, time.Minute, 10*time.Millisecond, "%s: %v", user, c.api.Billed()[token(user)])
}

func TestBill_CompactionSubagentsAndWhatIsGivenUpAreCounted(t *testing.T) {
	t.Parallel()
	c := newCounting(t, nil)
	require.Equal(t, "reply to: hello [[usage=1 2 3 4 5]]", c.ask("ada", "hello [[usage=1 2 3 4 5]]", nil).text(t))
	c.ask("ada", `[[tool=Agent {"description":"d","prompt":"look","subagent_type":"general-purpose"}]]`, nil).text(t)
	c.ask("ada", "fill [[input_tokens=990000]]", nil).text(t)
	c.ask("ada", "and then?", nil).text(t)
	before := len(c.api.Calls())
	ctx, hangUp := context.WithCancel(t.Context())
	response, err := c.start(ctx, "ada", "given up [[pause=1s]] [[usage=7 7 7 7 7]]", nil)
	require.NoError(t, err)
	c.awaitCall(before)
	hangUp()
	_ = response.Body.Close()
	c.requireCounted("ada")
	subagents := 0
	for _, call := range c.api.Calls() {
		if call.Header.Get("X-Claude-Code-Agent-Id") != "" {
			subagents++
		}
	}
	require.Equal(t, 1, subagents)
	require.GreaterOrEqual(t, len(c.api.Calls()), 8, "with that for a summary")
	require.EqualValues(t, 1, c.lastCall().Took.Output, "it has ended at the API")
}

func TestBill_SumsFollowAUserToANewToken(t *testing.T) {
	t.Parallel()
	c := newCounting(t, nil)
	c.ask("ada", "hello", nil).text(t)
	c.requireCounted("ada")
	c.ask("eve", "hello", fields{"oauth_credentials": fields{"access_token": token("eve"),
		"previous_access_token": token("ada")}}).text(t)
	who := api.Request{OAuth: &api.OAuthCredentials{AccessToken: token("eve")}}
	require.Eventually(t, func() bool {
		rows, err := c.reader.Of(t.Context(), who.UserID(), []string{usage.Day(time.Now())})
		return err == nil && len(rows) == 1 && rows[0].Calls == 2
	}, time.Minute, 10*time.Millisecond)
}

// requireSpent requires that a turn was ended by a budget, as its last event says.
func requireSpent(t *testing.T, r reply, code string) {
	t.Helper()
	require.Equal(t, http.StatusOK, r.status, r.body)
	require.True(t, r.done)
	last := r.events[len(r.events)-1]
	require.Equal(t, "error", last.Get("type").Str, r.body)
	require.Equal(t, "billing_error", last.Get("error.type").Str)
	require.Equal(t, code, last.Get("error.details.error_code").Str)
}

// Nobody has to be believed who shows a token.
func TestBudgets_ATokenThatTheAPIHasNotAcceptedTakesNobodysSums(t *testing.T) {
	t.Parallel()
	c := newCounting(t, func(o *pool.Options) { o.BudgetUser = settings.Budget{Nano: 8e6, Days: 1} })
	c.ask("ada", "[[usage=100000 1 0 0 0]]", nil).text(t)
	c.api.Admit(func(credential string) int {
		if credential == token("made-up") {
			return http.StatusUnauthorized
		}
		return 0
	})
	next := func(user string) fields {
		return fields{"oauth_credentials": fields{"access_token": token(user), "previous_access_token": token("ada")}}
	}
	c.ask("made-up", "hello", next("made-up"))
	c.requireCounted("ada")
	require.Equal(t, http.StatusPaymentRequired, c.ask("ada", "hello", nil).status)
	c.ask("eve", "hello", next("eve")).text(t)
	for _, user := range []string{"ada", "eve"} {
		require.Eventually(t, func() bool { return c.ask(user, "hello", nil).status == http.StatusPaymentRequired },
			time.Minute, 10*time.Millisecond, user)
	}
}

const twoTools = `use tools [[1:tool=Bash {"command":"echo first"}]][[2:tool=Bash {"command":"echo second"}]]`

func TestBudgets_ATurnThatIsEndedByOneIsKeptAsFarAsItWent(t *testing.T) {
	t.Parallel()
	c := newCounting(t, func(o *pool.Options) {
		o.Archive, o.ArchiveMaxBytes = archive.NewFolder(t.TempDir(), time.Hour), 1<<20
	})
	c.ask("ada", "hello", nil).text(t)
	r := c.ask("ada", twoTools, fields{"max_turns": 1})
	requireSpent(t, r, "max_turns_reached")
	require.Len(t, c.api.Calls(), 2, "and it isn't tried again")
	kept := []string{"user: hello", "assistant: reply to: hello", "user: " + twoTools, "user: and now?"}
	require.Equal(t, "reply to: and now?", c.ask("ada", "and now?", nil).text(t))
	require.Equal(t, kept, c.lastCall().Messages())
	require.Contains(t, string(c.lastCall().Body), "first", "what the tool said")

	r = c.ask("ada", "[[usage=50000 1 0 0 0]] "+twoTools, fields{"max_budget_usd": 0.008})
	requireSpent(t, r, "max_budget_usd_spent")
	signalProcess(t, r.pid, syscall.SIGKILL)
	c.awaitNoProcess()
	resumed := c.ask("ada", "and after its end?", nil)
	require.Equal(t, "reply to: and after its end?", resumed.text(t))
	require.Equal(t, pool.ProcessResumed, resumed.process)
	said := strings.Join(c.lastCall().Messages(), "\n")
	require.Contains(t, said, "[[usage=50000 1 0 0 0]]", "it is kept, as far as it went")
	require.Contains(t, said, "user: and now?")
	c.requireCounted("ada")
	require.NotContains(t, c.logs.String(), "a turn is not mirrored", "other instances can go on from there, too")
}

func TestBudgets_AUserWhoHasSpentItWaitsForAnotherDay(t *testing.T) {
	t.Parallel()
	c := newCounting(t, func(o *pool.Options) { o.BudgetUser = settings.Budget{Nano: 8e6, Days: 2} })
	r := c.ask("ada", "[[usage=50000 1 0 0 0]] "+twoTools, nil) // of half a cent each
	requireSpent(t, r, "user_budget_spent")
	require.Len(t, c.api.Calls(), 2, "one call more than there was money for")
	r = c.ask("ada", "more", nil)
	require.Equal(t, http.StatusPaymentRequired, r.status, r.body)
	require.Equal(t, "false", r.header.Get(api.HeaderShouldRetry))
	until := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 2).Format(time.RFC3339)
	require.Contains(t, r.body, "this user's budget of 0.008 USD in 2 days is spent until "+until)
	require.Equal(t, "reply to: hello", c.ask("bob", "hello", nil).text(t))
	c.requireCounted("ada")
}

func TestBudgets_WhoWaitedWhileOneWasSpentIsToldSo(t *testing.T) {
	t.Parallel()
	c := newCounting(t, func(o *pool.Options) { o.BudgetUser = settings.Budget{Nano: 8e6, Days: 1} })
	response, err := c.start(t.Context(), "ada", "[[usage=100000 1 0 0 0]] [[pause=500ms]]", nil)
	require.NoError(t, err)
	c.awaitCall(0)
	waiting := c.wait("ada", "more")
	read(response).text(t)
	requireSpent(t, <-waiting, "user_budget_spent")
	require.Len(t, c.api.Calls(), 1)
}

// The CLI makes a call of its own to see whether there is a model that it doesn't know.
func TestBudgets_ACallBeforeTheTurnIsNoneOfIts(t *testing.T) {
	t.Parallel()
	c := newCounting(t, nil)
	c.ask("ada", "hello", nil).text(t)
	before := len(c.api.Calls())
	r := c.ask("ada", "and now?", fields{"model": "claude-unheard-of-9", "max_turns": 1})
	require.Contains(t, r.text(t), "and now?")
	require.Len(t, c.api.Calls(), before+2)
	c.requireCounted("ada")
}
