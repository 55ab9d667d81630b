package pool_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
	"claudepool/pool"
)

// Nobody but the process that was there before knows that it had another session.
func TestInnerID_AConversationOfAnyIDBeginsWithAStandby(t *testing.T) {
	t.Parallel()
	for name, newService := range map[string]func(testing.TB, func(*pool.Options)) *service{"real": newService,
		"scripted": newScriptedService} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, withOneStandby)
			s.awaitStandbys(1)
			r := s.ask("ada", "one", fields{"session_id": session})
			require.Equal(t, "reply to: one", r.text(t))
			require.Equal(t, pool.ProcessStandby, r.process)
			require.NotEmpty(t, ids(r))
			for _, id := range ids(r) {
				require.Equal(t, session, id)
			}
			again := s.ask("ada", "two", fields{"session_id": session})
			require.Equal(t, r.pid, again.pid)
			require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())

			resumed := s.ask("ada", "three", fields{"session_id": session, "system": "be brief"}) // costs the process
			require.Equal(t, pool.ProcessResumed, resumed.process)
			require.Equal(t, "reply to: three", resumed.text(t))
			require.Len(t, s.lastCall().Messages(), 5)
		})
	}
}

// newWithInnerID starts a service with a confined standby, and has the user's conversation begin with it.
func newWithInnerID(t *testing.T, change ...func(*pool.Options)) (s *service, inner string) {
	t.Helper()
	need.Root(t)
	s = newServiceWith(t, confinement(t), func(o *pool.Options) {
		o.PermissionMode, o.Confined = "bypassPermissions", true
		withOneStandby(o)
		for _, c := range change {
			c(o)
		}
	})
	s.awaitStandbys(1)
	r := s.ask("ada", `[[tool=Bash {"command":"printenv CLAUDE_CODE_SESSION_ID | tee inner; cut -c1-8 inner"}]]`,
		fields{"session_id": session})
	require.Equal(t, pool.ProcessStandby, r.process)
	require.Contains(t, r.text(t), session, "of what a tool says, all see the conversation's id")
	file, err := os.ReadFile(filepath.Join(home(t, s), "work", "inner"))
	require.NoError(t, err)
	inner = strings.TrimSpace(string(file))
	require.NotEqual(t, session, inner)
	require.Contains(t, r.text(t), inner[:8], "what isn't the whole id is as it is")
	return s, inner
}

func TestInnerID_NeitherClientNorAPISeeTheInnerID(t *testing.T) {
	t.Parallel()
	s, inner := newWithInnerID(t)
	var seen bytes.Buffer
	for _, text := range []string{
		`[[say=I look]][[tool=Bash {"command":"seq 1 40000"}]]`, // which is kept in a file of the session's
		`[[tool=Task {"description":"d","prompt":"p","subagent_type":"general-purpose"}]]`, `[[status=400]]`, `four`,
	} {
		for _, e := range s.ask("ada", text, fields{"session_id": session}).events {
			seen.WriteString(e.Raw)
		}
	}
	require.Contains(t, seen.String(), session)
	require.NotContains(t, seen.String(), inner)
	for _, call := range s.api.Calls() {
		require.NotContains(t, string(call.Body), inner)
		require.Contains(t, string(call.Body), session)
		require.Equal(t, session, call.Header.Get("X-Claude-Code-Session-Id"))
	}
}

// What the model is told of the session's files has to lead there, as long as the process lives and afterwards, in one
// that was started for it and in one that was parked.
func TestInnerID_TheModelFindsTheFilesOfTheSession(t *testing.T) {
	t.Parallel()
	for name, parked := range map[string]int{"started": 0, "parked": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, inner := newWithInnerID(t, func(o *pool.Options) { o.Parked = parked })
			same := fields{"session_id": session}
			r := s.ask("ada", shell("seq 1 40000"), same)
			path := regexp.MustCompile(`saved to: (\S+)`).FindStringSubmatch(r.text(t))
			require.NotNil(t, path, r.text(t))
			require.Contains(t, path[1], session)
			require.Equal(t, "tool said: 40000", s.ask("ada", shell("tail -n 1 "+path[1]), same).text(t))
			prompt, said := uncut(s), earlier(t, s)
			if parked > 0 {
				s.parked("")
			}
			s.reap()
			r = s.ask("ada", shell("tail -n1 "+path[1]), same)
			require.Equal(t, "tool said: 40000", r.text(t))
			require.Equal(t, pool.ProcessResumed, r.process)
			require.Equal(t, prompt, uncut(s))
			require.Contains(t, earlier(t, s), said, "the API's cache of the prompt fits")
			requireRenamed(t, s, inner)
		})
	}
}

// A conversation of which the CLI had no folder yet has one with the next process.
func TestInnerID_TheNextProcessKeepsFilesOfTheSession(t *testing.T) {
	t.Parallel()
	for name, parked := range map[string]int{"started": 0, "parked": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := newWithInnerID(t, func(o *pool.Options) { o.Parked = parked })
			if parked > 0 {
				s.parked("")
			}
			s.reap()
			same := fields{"session_id": session}
			r := s.ask("ada", shell("seq 1 40000"), same)
			path := regexp.MustCompile(`saved to: (\S+)`).FindStringSubmatch(r.text(t))
			require.NotNil(t, path, r.text(t))
			read := fmt.Sprintf(`[[tool=Read {"file_path":%q,"offset":39999}]]`, path[1])
			require.Contains(t, s.ask("ada", read, same).text(t), "40000")
		})
	}
}

// A first turn that fails is forgotten, however its process ends.
func TestInnerID_AFirstTurnThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newService(t, withOneStandby)
	s.awaitStandbys(1)
	same := fields{"session_id": session}
	r := s.ask("ada", "[[status=400]]", same)
	require.Equal(t, pool.ProcessStandby, r.process)
	require.Equal(t, "reply to: one", s.ask("ada", "one", same).text(t))
	require.Equal(t, []string{"user: one"}, s.lastCall().Messages())
	kill(t, r.pid)
	require.Equal(t, "reply to: two", s.ask("ada", "two", same).text(t))
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
}

// What the archive has is the conversation's, while the process lives and when another instance takes it up.
func TestInnerID_AnotherInstanceGoesOn(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	first, second := newService(t, keepingIn(store, withOneStandby)), newService(t, keepingIn(store))
	first.awaitStandbys(1)
	same := fields{"session_id": session}
	r := first.ask("ada", "one", same)
	require.Equal(t, pool.ProcessStandby, r.process)
	saved(t, dir, 1)
	r = second.ask("ada", "two", same)
	require.Equal(t, "reply to: two", r.text(t))
	for _, id := range ids(r) {
		require.Equal(t, session, id)
	}
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, second.lastCall().Messages())
}

// requireRenamed requires that what the CLI keeps of the session has the session's id.
func requireRenamed(t *testing.T, s *service, inner string) {
	t.Helper()
	require.NoError(t, walkFiles(home(t, s), func(path string, text []byte) {
		isOthers := strings.Contains(path, "subagents") || strings.Contains(path, "session-env")
		if !isOthers && (filepath.Ext(path) == ".jsonl" || strings.Contains(path, "tool-results")) {
			require.NotContains(t, path, inner)
			require.NotContains(t, string(text), inner, path)
		}
	}))
}
