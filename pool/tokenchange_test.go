package pool_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
	"claudepool/pool/api"
)

// replacing is what a user says whose token was another's before.
func replacing(before, now string, more fields) fields {
	f := fields{"oauth_credentials": fields{"access_token": token(now), "previous_access_token": token(before)}}
	for k, v := range more {
		f[k] = v
	}
	return f
}

func records(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*/*.record"))
	require.NoError(t, err)
	return slices.DeleteFunc(files, func(path string) bool {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		return deleted(content)
	})
}

func TestInherit_TheProcessGoesOnUnderTheNewTokenWithTheRealCLI(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	s := newService(t, keepingIn(store))
	named := uuid.NewString()
	before := s.ask("ada", "one", nil)
	require.Equal(t, "reply to: one", before.text(t))
	require.Equal(t, "reply to: other", s.ask("ada", "other", fields{"session_id": named}).text(t))

	after := s.ask("new", "two", replacing("ada", "new", nil))
	require.Equal(t, "reply to: two", after.text(t))
	require.Equal(t, before.pid, after.pid, "the process has not been lost")
	require.Equal(t, pool.ProcessReused, after.process)
	require.Equal(t, "Bearer "+token("new"), s.lastCall().Header.Get("Authorization"))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
	s.ask("new", "more", fields{"session_id": named}).text(t)
	require.Equal(t, []string{"user: other", "assistant: reply to: other", "user: more"}, s.lastCall().Messages())
	require.Contains(t, s.owner.releasedUsers(), userID("ada"))
	entries, err := os.ReadDir(filepath.Join(s.root, userID("new")))
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.NoDirExists(t, filepath.Join(s.root, userID("ada")))

	s.pool.Close()
	require.Len(t, records(t, dir), 2, "nothing is left under the former token")
	require.NotContains(t, s.logs.String(), token("ada"))
	next := newScriptedService(t, keepingIn(store))
	next.ask("new", "three", nil).text(t)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two",
		"user: three"}, next.lastCall().Messages())
	next.ask("ada", "hello", nil).text(t)
	require.Equal(t, []string{"user: hello"}, next.lastCall().Messages(), "the former token is another user")
}

func TestInherit_WhatOnlyTheArchiveHasMovesToo(t *testing.T) {
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store))
	first.ask("ada", "one", nil).text(t)
	first.pool.Close()
	second := newScriptedService(t, keepingIn(store))
	second.ask("new", "two", replacing("ada", "new", nil)).text(t)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, second.lastCall().Messages())
	second.ask("new", "three", replacing("ada", "new", nil)).text(t)
	require.Len(t, second.lastCall().Messages(), 5, "to say it again changes nothing")
	former := strings.Count(strings.Join(second.owner.admittedUsers(), " "), userID("ada"))
	second.ask("new", "four", replacing("ada", "new", nil)).text(t)
	require.Equal(t, former, strings.Count(strings.Join(second.owner.admittedUsers(), " "), userID("ada")),
		"nor does it cost anything")
	second.pool.Close()
	require.Len(t, records(t, dir), 1)
}

func TestInherit_WaitsForTheRunningTurnAndForThoseWhoWereThereBefore(t *testing.T) {
	s := newScriptedService(t, nil)
	session := uuid.NewString()
	s.ask("ada", "one", fields{"session_id": session}).text(t)
	hangUp := s.occupy("ada", fields{"session_id": session})
	heir := make(chan reply, 1)
	go func() { heir <- s.ask("new", "two", replacing("ada", "new", fields{"session_id": session})) }()
	select {
	case r := <-heir:
		t.Fatal("answered in the middle of the former user's turn: ", r.body)
	case <-time.After(200 * time.Millisecond):
	}
	hangUp()
	require.Equal(t, "reply to: two", (<-heir).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

func TestInherit_ManyAtOnceMoveEverythingOnce(t *testing.T) {
	store, dir := kept(t)
	s := newScriptedService(t, keepingIn(store))
	sessions := []string{uuid.NewString(), uuid.NewString(), uuid.NewString()}
	for _, id := range sessions {
		s.ask("ada", "first in "+id, fields{"session_id": id}).text(t)
	}
	replies := make(chan reply, 6)
	for i := range cap(replies) {
		go func() {
			replies <- s.ask("new", "again", replacing("ada", "new", fields{"session_id": sessions[i%len(sessions)]}))
		}()
	}
	for range cap(replies) {
		require.Equal(t, "reply to: again", (<-replies).text(t))
	}
	for _, id := range sessions {
		s.ask("new", "last", fields{"session_id": id}).text(t)
		require.Equal(t, "user: first in "+id, s.lastCall().Messages()[0])
		require.Len(t, s.lastCall().Messages(), 7)
	}
	s.pool.Close()
	require.Len(t, records(t, dir), len(sessions))
}

func TestInherit_WhileTheArchiveIsAwayNothingMoves(t *testing.T) {
	store, dir := kept(t)
	way := &flaky{Store: store}
	s := newScriptedService(t, keepingIn(way))
	first := s.ask("ada", "one", nil)
	first.text(t)
	saved(t, dir, 1)
	way.set(true)
	refused := s.ask("new", "two", replacing("ada", "new", nil))
	require.Equal(t, http.StatusServiceUnavailable, refused.status, refused.body)
	require.NotEmpty(t, refused.header.Get("Retry-After"))
	require.Equal(t, first.pid, s.ask("ada", "still here", nil).pid)
}

func TestInherit_AnArchiveThatFailsHalfWayLeavesAllWhereItWas(t *testing.T) {
	store, dir := kept(t)
	way := &flaky{Store: store}
	s := newScriptedService(t, keepingIn(way))
	sessions := []fields{{"session_id": uuid.NewString()}, {"session_id": uuid.NewString()}}
	var pids []string
	for _, session := range sessions {
		r := s.ask("ada", "one", session)
		r.text(t)
		pids = append(pids, r.pid)
	}
	saved(t, dir, 2)
	way.mu.Lock()
	way.saves = 1
	way.mu.Unlock()
	refused := s.ask("new", "two", replacing("ada", "new", sessions[0]))
	require.Equal(t, http.StatusServiceUnavailable, refused.status, refused.body)
	require.NotEmpty(t, refused.header.Get("Retry-After"))
	way.set(false)
	for i, session := range sessions {
		r := s.ask("ada", "two", session)
		require.Equal(t, "reply to: two", r.text(t))
		require.Equal(t, pids[i], r.pid)
		require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
	}
	for i, session := range sessions {
		var r reply
		require.Eventually(t, func() bool { // what has failed is not asked again at once
			r = s.ask("new", "three", replacing("ada", "new", session))
			return r.status == http.StatusOK
		}, time.Minute, 10*time.Millisecond)
		require.Equal(t, "reply to: three", r.text(t))
		require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two",
			"user: three"}, s.lastCall().Messages())
		require.Equal(t, pids[i], r.pid)
	}
}

func TestInherit_ASessionThatBothHaveStaysWhereItIs(t *testing.T) {
	store, _ := kept(t)
	s := newScriptedService(t, keepingIn(store))
	session := uuid.NewString()
	s.ask("ada", "hers", fields{"session_id": session}).text(t)
	s.ask("new", "mine", fields{"session_id": session}).text(t)
	s.ask("new", "more", replacing("ada", "new", fields{"session_id": session})).text(t)
	require.Equal(t, "user: mine", s.lastCall().Messages()[0])
	s.ask("ada", "more", fields{"session_id": session}).text(t)
	require.Equal(t, "user: hers", s.lastCall().Messages()[0])
}

func TestForget_LeavesNothingOfAConversation(t *testing.T) {
	store, dir := kept(t)
	s := newScriptedService(t, keepingIn(store))
	session := uuid.NewString()
	s.ask("ada", "one", fields{"session_id": session}).text(t)
	s.ask("ada", "two", nil).text(t)
	s.ask("bob", "three", nil).text(t)
	require.Equal(t, `{"deleted":0}`, s.forget("ada", uuid.NewString()))
	require.Equal(t, `{"deleted":1}`, s.forget("ada", session))
	require.NoError(t, s.pool.Sound())
	require.Equal(t, `{"deleted":0}`, s.forget("ada", session), "to say it again does no harm")
	require.Eventually(t, func() bool { return len(records(t, dir)) == 2 }, time.Minute, 10*time.Millisecond,
		"bob's is being saved")
	s.ask("ada", "new", fields{"session_id": session}).text(t)
	require.Equal(t, []string{"user: new"}, s.lastCall().Messages())

	require.Equal(t, `{"deleted":2}`, s.forget("ada", ""))
	require.Len(t, records(t, dir), 1)
	require.Contains(t, s.owner.releasedUsers(), userID("ada"))
	require.NoError(t, walkFiles(s.root, func(path string, content []byte) {
		require.NotContains(t, string(content), "two", path)
	}))
	s.ask("bob", "four", nil).text(t)
	require.Len(t, s.lastCall().Messages(), 3, "another's stay")
}

func TestForget_ReachesWhatOnlyTheArchiveHas(t *testing.T) {
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store))
	first.ask("ada", "one", nil).text(t)
	first.pool.Close()
	way := &flaky{Store: store}
	second := newScriptedService(t, keepingIn(way))
	way.set(true)
	require.Contains(t, second.forget("ada", ""), "api_error", "what there is can't be told")
	way.set(false)
	third := newScriptedService(t, keepingIn(way))
	require.Equal(t, `{"deleted":1}`, third.forget("ada", ""))
	require.Empty(t, records(t, dir))
}

// forget has a user's conversations deleted, or one of them, and returns the answer.
func (s *service) forget(user, session string) string {
	s.t.Helper()
	raw, err := json.Marshal(fields{"oauth_credentials": fields{"access_token": token(user)}, "session_id": session})
	require.NoError(s.t, err)
	response, err := s.send(s.t.Context(), http.DefaultClient, api.PathDelete, raw)
	require.NoError(s.t, err)
	return strings.TrimSpace(read(response).body)
}
