package pool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/archive"
	"claudepool/pool"
	"claudepool/pool/api"
)

// tells has what was said be told.
func tells(o *pool.Options) { o.ArchiveMaxBytes = 1 << 20 }

// tell asks at one of the paths about the user's conversations.
func (s *service) tell(user, path string, more fields) reply {
	s.t.Helper()
	body := fields{"oauth_credentials": fields{"access_token": token(user)}, "limit": 100}
	maps.Copy(body, more)
	raw, err := json.Marshal(body)
	require.NoError(s.t, err)
	response, err := s.send(s.t.Context(), http.DefaultClient, path, raw)
	require.NoError(s.t, err)
	return read(response)
}

// listed is what the list has of each conversation, as "title running".
func (s *service) listed(user string) (all []string) {
	s.t.Helper()
	r := s.tell(user, api.PathConversations, nil)
	require.Equal(s.t, http.StatusOK, r.status, r.body)
	for _, c := range gjson.Get(r.body, "conversations").Array() {
		all = append(all, fmt.Sprint(c.Get("title").Str, " ", c.Get("running").Bool()))
	}
	return all
}

// said is what is told to have been said, each message as its role and its blocks.
func (s *service) said(user, session string) (all []string) {
	s.t.Helper()
	r := s.tell(user, api.PathSaid, fields{"session_id": session})
	require.Equal(s.t, http.StatusOK, r.status, r.body)
	for _, m := range gjson.Get(r.body, "messages").Array() {
		one := m.Get("role").Str + ":"
		for _, b := range m.Get("content").Array() {
			one += " " + b.Get("type").Str + " " + b.Get("text").Str + b.Get("name").Str + b.Get("content").Str
		}
		all = append(all, strings.TrimSpace(one))
	}
	return all
}

func (s *service) fork(user, from, to string) reply {
	s.t.Helper()
	return s.tell(user, api.PathForks, fields{"session_id": from, "fork_id": to})
}

var hi = []string{"user: text one", "assistant: text reply to: one"}

func TestList_TellsOfAllConversationsAndUsesNone(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, tells)
	first, second := uuid.NewString(), uuid.NewString()
	s.ask("ada", "one\n\tline "+strings.Repeat("and more ", 20), fields{"session_id": first}).text(t)
	hangUp := s.occupy("ada", fields{"session_id": second})
	defer hangUp()
	s.ask("bob", "mine", nil).text(t)
	_, idle := s.pool.Load()
	require.Equal(t, []string{"busy [[silence]] true", "one line " + strings.TrimSpace(strings.Repeat("and more ", 7)+
		"and mor") + "… false"}, s.listed("ada"))
	r := s.tell("ada", api.PathOne, fields{"session_id": first})
	require.Equal(t, first, gjson.Get(r.body, "id").Str, r.body)
	require.Equal(t, "[]", gjson.Get(r.body, "pending").Raw)
	used := gjson.Get(r.body, "last_used").Time()
	require.WithinDuration(t, time.Now(), used, time.Minute)
	require.WithinDuration(t, used, gjson.Get(r.body, "created").Time(), time.Minute)
	for range 3 {
		s.said("ada", first)
	}
	r = s.tell("ada", api.PathOne, fields{"session_id": first})
	require.Equal(t, used, gjson.Get(r.body, "last_used").Time())
	_, still := s.pool.Load()
	require.Equal(t, idle, still)
	hangUp()
}

func TestList_TellsWhatIsAsked(t *testing.T) {
	t.Parallel()
	s := newAskedService(t, tells)
	id := uuid.NewString()
	turn := s.converse(t.Context(), "ada", id, write, fields{"permission_mode": "default"})
	asked := turn.asked()
	pending := gjson.Get(s.tell("ada", api.PathOne, fields{"session_id": id}).body, "pending")
	require.Len(t, pending.Array(), 1, pending.Raw)
	require.JSONEq(t, asked.Raw, pending.Get("0").Raw)
	turn.answers(asked.Get("request_id").Str, allowed)
	turn.next("result")
	require.Equal(t, "[]", gjson.Get(s.tell("ada", api.PathOne, fields{"session_id": id}).body, "pending").Raw)
}

func TestList_OfWhomNobodyKnowsIsEmptyAndTheUserIsGivenUpAtOnce(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, tells)
	require.Empty(t, s.listed("nobody"))
	require.Equal(t, []string{userID("nobody")}, s.owner.releasedUsers())
	reserved, _ := s.pool.Load()
	require.Zero(t, reserved)
	require.Empty(t, s.workspaces())
}

// A turn that failed has never been.
func TestSaid_IsWhatWasSaidInGoodTurns(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, tells)
	id := uuid.NewString()
	s.ask("ada", "one", fields{"session_id": id}).text(t)
	s.ask("ada", "two [[status=400]]", fields{"session_id": id})
	require.Eventually(t, func() bool {
		return !gjson.Get(s.tell("ada", api.PathOne,
			fields{"session_id": id}).body, "running").Bool()
	}, time.Minute, 5*time.Millisecond)
	require.Equal(t, hi, s.said("ada", id))
	for i := range 5 {
		s.ask("ada", fmt.Sprint(i), fields{"session_id": id}).text(t)
	}
	r := s.tell("ada", api.PathSaid, fields{"session_id": id, "limit": 5})
	require.Len(t, gjson.Get(r.body, "messages").Array(), 5)
	r = s.tell("ada", api.PathSaid, fields{"session_id": id, "limit": 5, "before": gjson.Get(r.body, "before").Int()})
	require.Equal(t, "reply to: 1", gjson.Get(r.body, "messages.3.content.0.text").Str, r.body)
	require.Equal(t, int64(2), gjson.Get(r.body, "before").Int(), r.body)
}

func TestConversations_OfOthersAndUnknownOnesAreNone(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, tells)
	id := uuid.NewString()
	s.ask("ada", "one", fields{"session_id": id}).text(t)
	for _, path := range []string{api.PathOne, api.PathSaid, api.PathForks} {
		require.Equal(t, http.StatusNotFound, s.tell("bob", path, fields{"session_id": id,
			"fork_id": uuid.NewString()}).status, path)
		require.Equal(t, http.StatusNotFound, s.tell("ada", path, fields{"session_id": uuid.NewString(),
			"fork_id": uuid.NewString()}).status, path)
	}
	require.Equal(t, http.StatusBadRequest, s.fork("ada", id, id).status, "the id is taken")
	require.Equal(t, []string{"one false"}, s.listed("ada"))
	require.Len(t, s.workspaces(), 1)
}

// loading is an archive that counts what it is asked for.
type loading struct {
	archive.Store
	loads atomic.Int64
}

func (c *loading) Load(ctx context.Context, owner, name string, version int64) ([]byte, error) {
	c.loads.Add(1)
	return c.Store.Load(ctx, owner, name, version)
}

func TestList_TellsOfWhatTheArchiveAloneHasWithoutReadingIt(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store))
	id := uuid.NewString()
	first.ask("ada", "one", fields{"session_id": id}).text(t)
	saved(t, dir, 1)
	before := first.tell("ada", api.PathOne, fields{"session_id": id})
	first.pool.Close()

	counted := &loading{Store: store}
	s := newScriptedService(t, keepingIn(counted))
	r := s.tell("ada", api.PathOne, fields{"session_id": id})
	require.Equal(t, "one", gjson.Get(r.body, "title").Str, r.body)
	require.WithinDuration(t, gjson.Get(before.body, "created").Time(), gjson.Get(r.body, "created").Time(), 0)
	require.Zero(t, counted.loads.Load())
	require.Equal(t, hi, s.said("ada", id))
	require.Equal(t, int64(1), counted.loads.Load())
	require.Contains(t, s.owner.releasedUsers(), userID("ada"), "nothing of the user is here")
	require.Empty(t, s.workspaces())

	fork := uuid.NewString()
	require.Equal(t, http.StatusOK, s.fork("ada", id, fork).status)
	saved(t, dir, 2)
	s.pool.Close()
	next := newScriptedService(t, keepingIn(store))
	require.Equal(t, []string{"one false", "one false"}, next.listed("ada"))
	next.ask("ada", "two", fields{"messages": []fields{user("one"), assistant("reply to: one"), user("two")}}).text(t)
	require.Len(t, next.said("ada", id), 4, "who doesn't name a conversation means the one that wasn't forked")
	require.Equal(t, hi, next.said("ada", fork))
}

func TestFork_GoesOnByItselfAndNobodyIsTakenThereByWhatWasSaid(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, tells)
	id, fork := uuid.NewString(), uuid.NewString()
	s.ask("ada", "one", fields{"session_id": id, "system": "be brief"}).text(t)
	r := s.fork("ada", id, fork)
	require.Equal(t, fmt.Sprintf(`{"id":%q,"forked_from":%q,"workspace":false}`, fork, id), strings.TrimSpace(r.body))
	history := fields{"messages": []fields{user("one"), assistant("reply to: one"), user("two")}}
	s.ask("ada", "", history).text(t)
	require.Len(t, s.said("ada", id), 4)
	require.Equal(t, hi, s.said("ada", fork))
	s.ask("ada", "three", fields{"session_id": fork}).text(t)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: three"}, s.lastCall().Messages())
	require.Len(t, s.said("ada", id), 4)
	require.Len(t, s.said("ada", fork), 4)
	history["messages"] = []fields{user("one"), assistant("reply to: one"), user("three"), assistant("reply to: three"),
		user("four")}
	s.ask("ada", "", history).text(t)
	require.Len(t, s.said("ada", fork), 6, "by now it is known by what was said")
}

func TestFork_WaitsForTheTurnAndCountsAsAConversation(t *testing.T) {
	t.Parallel()
	s := newScriptedService(t, func(o *pool.Options) {
		tells(o)
		o.MaxConversations = 2
	})
	id, fork := uuid.NewString(), uuid.NewString()
	s.ask("ada", "zero", nil).text(t)
	s.ask("ada", "one", fields{"session_id": id}).text(t)
	hangUp := s.occupy("ada", fields{"session_id": id})
	done := make(chan reply)
	go func() { done <- s.fork("ada", id, fork) }()
	require.Equal(t, []string{"one true", "zero false"}, s.listed("ada"))
	hangUp()
	require.Equal(t, http.StatusOK, (<-done).status)
	require.Equal(t, []string{"one false", "one false"}, s.listed("ada"), "the oldest has given way")
	require.Equal(t, hi, s.said("ada", fork))

	defer s.occupy("ada", fields{"session_id": fork})()
	require.Equal(t, http.StatusTooManyRequests, s.fork("ada", id, uuid.NewString()).status)
	require.Len(t, s.workspaces(), 2)
}

func TestConversations_WithTheRealCLI(t *testing.T) {
	t.Parallel()
	s := newService(t, tells)
	id, fork := uuid.NewString(), uuid.NewString()
	s.ask("ada", "one", fields{"session_id": id}).text(t)
	s.ask("ada", "two [[say=look]][[tool=Read {\"file_path\":\"/etc/hostname\"}\nRead {\"file_path\":\"/etc/hosts\"}]]",
		fields{"session_id": id}).text(t)
	require.Eventually(t, func() bool { return len(s.said("ada", id)) == 6 }, time.Minute, 20*time.Millisecond)
	said := s.said("ada", id)
	require.Equal(t, hi, said[:2])
	require.Equal(t, "assistant: text look tool_use Read tool_use Read", said[3])
	require.Regexp(t, "^user: tool_result .* tool_result .*$", said[4])
	require.Regexp(t, "^assistant: text tool said: ", said[5])
	s.ask("ada", "three [[status=400]]", fields{"session_id": id})
	s.reap()
	require.Equal(t, said, s.said("ada", id))

	require.Equal(t, http.StatusOK, s.fork("ada", id, fork).status)
	require.Equal(t, said, s.said("ada", fork))
	four := s.ask("ada", "four", fields{"session_id": fork})
	require.Equal(t, "reply to: four", four.text(t))
	require.Equal(t, api.ContextCut, four.receipt().Get("context").Str)
	require.Equal(t, "user: one", s.lastCall().Messages()[0])
	require.Equal(t, said, s.said("ada", id))
	require.Equal(t, []string{"one false", "one false"}, s.listed("ada"))
	s.reap()
	require.Len(t, s.said("ada", fork), 8)
	require.Equal(t, `{"deleted":1}`, s.forget("ada", id))
	require.Equal(t, http.StatusNotFound, s.tell("ada", api.PathSaid, fields{"session_id": id}).status)
	require.Equal(t, []string{"one false"}, s.listed("ada"))
}
