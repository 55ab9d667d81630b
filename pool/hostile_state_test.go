package pool_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/archive"
	"claudepool/pool"
	"claudepool/pool/seal"
)

// largest is all that a request may say that is kept with its conversation. JSON writes the prompt's characters in six
// each.
func largest(t *testing.T) fields {
	return fields{"system": strings.Repeat("<",
		256<<10), "mcp_servers": fields{"birds": fields{"type": "http", "url": toolServer(t),
		"headers": fields{"X-Large": strings.Repeat("x", 60<<10)}}}}
}

func TestHostile_TheLargestConversationIsKeptRotatedAndDeleted(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	whole := func(s *service) {
		t.Helper()
		require.GreaterOrEqual(t, strings.Count(gjson.GetBytes(s.lastCall().Body, "system").String(), "<"), 256<<10,
			"the system prompt is there")
	}
	first := newService(t, keepingIn(store))
	first.ask("ada", "one", largest(t)).text(t)
	saved(t, dir, 1)
	require.Equal(t, "reply to: two", first.ask("new", "two", replacing("ada", "new", nil)).text(t),
		"while it has a process")
	whole(first)
	first.pool.Close()
	require.Len(t, records(t, dir), 1)

	second := newService(t, keepingIn(store))
	require.Equal(t, "reply to: three", second.ask("newer", "three", replacing("new", "newer", nil)).text(t),
		"when only the archive has it")
	whole(second)
	require.Len(t, second.lastCall().Messages(), 5)
	second.pool.Close()
	require.Len(t, records(t, dir), 1)

	third := newService(t, keepingIn(store))
	require.Equal(t, `{"deleted":1}`, third.forget("newer", ""))
	require.Empty(t, records(t, dir))
	require.NoError(t, walkFiles(dir, func(path string, content []byte) { require.Less(t, len(content), 200, path) }))
}

// multiply makes n more conversations of the only one that the archive has of a user.
func multiply(t *testing.T, store archive.Store, user string, n int) {
	t.Helper()
	keys := seal.Derive(token(user))
	h, body := opened(t, store, keys)
	for range n {
		h["Session"], h["Born"], h["Standard"] = uuid.NewString(), uuid.NewString(), false
		shut(t, store, keys, h, body, 1)
	}
}

// opened is what the archive has of a user's only conversation.
func opened(t *testing.T, store archive.Store, keys *seal.Keys) (h map[string]any, body []byte) {
	t.Helper()
	list, err := store.List(t.Context(), keys.Owner())
	require.NoError(t, err)
	require.Len(t, list, 1)
	at := seal.Place{Name: list[0].Name, Version: list[0].Version, Part: "head"}
	text, err := keys.Open(list[0].Head, at)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &h))
	sealed, err := store.Load(t.Context(), keys.Owner(), at.Name, at.Version)
	require.NoError(t, err)
	at.Part = "body"
	body, err = keys.Open(sealed, at)
	require.NoError(t, err)
	return h, body
}

// shut puts a conversation into the archive.
func shut(t *testing.T, store archive.Store, keys *seal.Keys, h map[string]any, body []byte, version int64) {
	t.Helper()
	text, err := json.Marshal(h)
	require.NoError(t, err)
	at := seal.Place{Name: keys.Name(h["Session"].(string)), Version: version, Part: "head"}
	r := archive.Record{Name: at.Name, Version: version, Head: keys.Seal(text, at)}
	at.Part = "body"
	require.NoError(t, store.Save(t.Context(), keys.Owner(), r, keys.Seal(body, at)))
}

func TestHostile_HundredsOfConversationsMoveAndGoWhileAnothersTurnGoesOn(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	const n = 320
	first := newScriptedService(t, keepingIn(store))
	first.ask("ada", "one", nil).text(t)
	first.pool.Close()
	multiply(t, store, "ada", n-1)

	s := newScriptedService(t, keepingIn(store))
	s.ask("bob", "before", nil).text(t)
	before := len(s.api.Calls())
	bob := make(chan reply, 1)
	go func() { bob <- s.ask("bob", "long [[words=60]][[delay=50ms]]", nil) }()
	s.awaitCall(before)
	require.Equal(t, "reply to: two", s.ask("new", "two", replacing("ada", "new", nil)).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
	require.Len(t, records(t, dir), n+1, "nothing is left under the former token")
	require.NoError(t, s.pool.Sound())
	require.Equal(t, fmt.Sprintf(`{"deleted":%d}`, n), s.forget("new", ""))
	require.NoError(t, s.pool.Sound())
	require.Len(t, (<-bob).of("result"), 1)
	s.pool.Close()
	require.Len(t, records(t, dir), 1, "bob's")
}

func TestHostile_WhatWasOnlyRefusedIsForgottenWithItsProcess(t *testing.T) {
	s := newScriptedService(t, nil)
	history := []fields{{"role": "user", "content": "before"}, {"role": "assistant", "content": "said"},
		{"role": "user", "content": "no [[status=400]]"}}
	large := fields{"system": strings.Repeat("s", 256<<10), "messages": history}
	require.True(t, s.ask("eve", "", large).of("result")[0].Get("is_error").Bool())
	named := fields{"session_id": uuid.NewString()}
	require.True(t, s.ask("eve", "no [[status=400]]", named).of("result")[0].Get("is_error").Bool())
	s.ask("ada", "one", nil).text(t)
	require.True(t, s.ask("ada", "no [[status=400]]", nil).of("result")[0].Get("is_error").Bool())
	require.Equal(t, 3, s.pool.Conversations())

	require.Eventually(t, func() bool { // a conversation that is being rewound isn't idle yet
		s.pool.CleanUp(time.Now().Add(2 * time.Minute))
		return s.pool.Conversations() == 1
	}, time.Minute, 5*time.Millisecond)
	require.Eventually(t, func() bool { return len(s.workspaces()) == 1 }, time.Minute, 5*time.Millisecond,
		"nor are their files kept")
	require.NoDirExists(t, filepath.Join(s.root, userID("eve")))
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t), "one that was answered once is resumed")
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
	require.Equal(t, "reply to: new", s.ask("eve", "new", named).text(t))
	require.Equal(t, []string{"user: new"}, s.lastCall().Messages())
}

// workspaces are the names of those there are.
func (s *service) workspaces() (names []string) {
	s.t.Helper()
	dirs, err := os.ReadDir(s.root)
	require.NoError(s.t, err)
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(s.root, dir.Name(), "work")); err == nil {
			names = append(names, dir.Name())
		}
	}
	return names
}

func TestHostile_OfFormerTokensOnlyTheLatestAreRemembered(t *testing.T) {
	s := newScriptedService(t, nil)
	for i := range 20 {
		s.ask("ada", "hello", replacing(fmt.Sprint("former", i), "ada", nil)).text(t)
	}
	require.Equal(t, 16, s.pool.Former(userID("ada")))
}

func TestHandoff_LargeHeadsOfOlderReleasesAreRead(t *testing.T) {
	t.Parallel()
	store, _ := kept(t)
	first := newScriptedService(t, keepingIn(store))
	first.ask("ada", "one", nil).text(t)
	first.pool.Close()
	keys := seal.Derive(token("ada"))
	h, body := opened(t, store, keys)
	h["Settings"].(map[string]any)["System"] = strings.Repeat("heliotrope", 20_000)
	shut(t, store, keys, h, body, 2)

	second := newScriptedService(t, keepingIn(store))
	require.Equal(t, "reply to: two", second.ask("ada", "two", nil).text(t))
	second.pool.Close()
	third := newService(t, keepingIn(store))
	require.Equal(t, http.StatusOK, third.ask("ada", "three", nil).status)
	require.Equal(t, 20_000, strings.Count(string(third.lastCall().Body), "heliotrope"))
	require.Equal(t, `{"deleted":1}`, third.forget("ada", ""))
}

// What gives way comes back from the archive with its settings, which nobody else keeps meanwhile.
func TestPool_LargeSettingsComeBackWithWhatGaveWay(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	s := newService(t, keepingIn(store, func(o *pool.Options) { o.MaxConversations = 1 }))
	session := fields{"session_id": uuid.NewString()}
	s.ask("ada", "one", fields{"session_id": session["session_id"], "system": strings.Repeat("heliotrope",
		20_000)}).text(t)
	saved(t, dir, 1)
	require.Eventually(t, func() bool {
		s.ask("ada", "other", fields{"session_id": uuid.NewString()}).text(t)
		return strings.Contains(s.logs.String(), "files gave way")
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, "reply to: two", s.ask("ada", "two", session).text(t))
	require.Equal(t, 20_000, strings.Count(string(s.lastCall().Body), "heliotrope"))
}
