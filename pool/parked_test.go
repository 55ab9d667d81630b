package pool_test

import (
	"bytes"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/archive"
	"claudepool/infra/testkit/need"
	"claudepool/pool"
	"claudepool/pool/confine"
)

// newParking starts a service with the real CLI that has a process parked, which it replaces when no turn has begun for
// a minute: few tests need another.
func newParking(t *testing.T, change ...func(*pool.Options)) *service {
	t.Helper()
	need.Root(t)
	return newServiceWith(t, confinement(t), func(o *pool.Options) {
		o.PermissionMode, o.Confined, o.Parked = "bypassPermissions", true, 1
		o.SetQuiet(time.Minute)
		for _, c := range change {
			c(o)
		}
	})
}

// replacedSoon has each process that was taken be replaced.
func replacedSoon(o *pool.Options) { o.SetQuiet(200 * time.Millisecond) }

// parked waits for a process that was started with the model, and returns its pid.
func (s *service) parked(model string) (pid string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		ready := s.pool.Snapshot().Parked
		if ready == 0 { // it needn't be looked for among all processes
			return false
		}
		found := parkedIn(s.root, model, "")
		if len(found) == 0 || len(parkedIn(s.root, "", "")) > ready { // one that is at its gate isn't ready yet
			return false
		}
		pid = found[0]
		return true
	}, standbyPatience, 10*time.Millisecond)
	return pid
}

// parkedIn looks for CLIs that were started at a gate below the folder, and have a file where they work.
func parkedIn(root, model, file string) (pids []string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		args, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		line := strings.ReplaceAll(string(args), "\x00", " ")
		named := model == "" || strings.Contains(line, "--model="+model+" ")
		if !strings.Contains(line, "--resume="+filepath.Dir(root)) || !strings.Contains(line, ".jsonl ") || !named {
			continue
		}
		if waits, err := confine.NewOpening(pid).Waits(); err != nil || !waits { // it may have forked
			continue
		}
		if _, err := os.Stat(filepath.Join("/proc", e.Name(), "cwd", file)); err == nil {
			pids = append(pids, e.Name())
		}
	}
	return pids
}

const session = "11111111-2222-4333-8444-555555555555"

var three = fields{"model": nil, "messages": []fields{user("one"), assistant("two"), user("three")}}

func with(f fields, name string, value any) fields {
	more := maps.Clone(f)
	more[name] = value
	return more
}

func TestParked_AHistoryIsTakenUpByAParkedProcess(t *testing.T) {
	t.Parallel()
	s := newParking(t)
	pid := s.parked("")
	r := s.ask("ada", "", with(three, "session_id", session))
	require.Equal(t, "reply to: three", r.text(t))
	require.Equal(t, pid, r.pid)
	require.Equal(t, pool.ProcessResumed, r.process)
	require.Equal(t, []string{"user: one", "assistant: two", "user: three"}, s.lastCall().Messages())
	for _, id := range ids(r) {
		require.Equal(t, session, id)
	}

	r = s.ask("ada", "four", fields{"model": nil, "session_id": session})
	require.Equal(t, pool.ProcessReused, r.process)
	require.Equal(t, "reply to: four", r.text(t))

	s.ask("ada", "[[status=400]]", fields{"model": nil, "session_id": session}) // is undone
	r = s.ask("ada", "five", fields{"model": nil, "session_id": session, "system": "be brief"})
	require.Equal(t, pool.ProcessResumed, r.process)
	require.NotEqual(t, pid, r.pid, "its transcript is one that any process can resume")
	require.Equal(t, []string{"user: one", "assistant: two", "user: three", "assistant: reply to: three", "user: four",
		"assistant: reply to: four", "user: five"}, s.lastCall().Messages())
}

// ids are the session ids that a client gets to see.
func ids(r reply) (all []string) {
	for _, e := range r.events {
		if id := e.Get("session_id"); id.Exists() {
			all = append(all, id.Str)
		}
	}
	return all
}

// What the API sees is the same as of an ordinary resume: its cache of the prompt has to fit.
func TestParked_TheAPISeesWhatAnOrdinaryResumeSends(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"two questions at the end", "tools inside", "a tool's result beside the question"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := histories[name]
			request := fields{"model": nil, "messages": h.messages, "system": "You are a zebra."}
			s := newParking(t)
			pid := s.parked("")
			require.Equal(t, pid, s.ask("ada", "", request).pid)
			plain := newConfined(t)
			plain.ask("ada", "", request)
			require.Equal(t, h.seen, saw(s.lastCall()))
			require.Equal(t, prompt(plain), prompt(s))
		})
	}
}

// prompt is what the last call has beside the messages, without what differs between folders and between moments.
func prompt(s *service) string {
	body := s.lastCall().Body
	return s.comparable(gjson.GetBytes(body, "system").Raw + gjson.GetBytes(body, "tools").Raw +
		gjson.GetBytes(body, "model").Raw)
}

// comparable is a part of a call without what differs between folders and between moments.
func (s *service) comparable(text string) string {
	var lines []string
	for _, line := range strings.Split(text, `\n`) {
		if !strings.Contains(line, filepath.Dir(s.root)) && !strings.Contains(line, "cch=") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

func TestParked_AConversationOfAnotherInstanceIsTakenUp(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	first := newServiceWith(t, nil, keepingIn(store))
	first.ask("ada", "one", fields{"model": nil, "session_id": session})
	saved(t, dir, 1)
	second := newParking(t, archiving(store))
	pid := second.parked("")
	r := second.ask("ada", "two", fields{"model": nil, "session_id": session})
	require.Equal(t, pid, r.pid)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, second.lastCall().Messages())
	saved(t, dir, 2)
	third := newParking(t, archiving(store))
	pid = third.parked("")
	r = third.ask("ada", "three", fields{"model": nil, "session_id": session})
	require.Equal(t, pid, r.pid)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two",
		"user: three"}, third.lastCall().Messages(), "what a parked process writes is whole")
}

func archiving(store archive.Store) func(*pool.Options) { return keepingIn(store) }

func TestParked_WhatIsParkedFollowsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	s := newParking(t, replacedSoon)
	first := s.parked("")
	s.api.Admit(func(credential string) int {
		if strings.Contains(credential, "eve") {
			return http.StatusUnauthorized
		}
		return 0
	})
	s.ask("eve", "", with(three, "model", "opus")) // whom the API doesn't know
	require.EqualValues(t, 1, s.pool.Snapshot().ParkedMisses)
	require.Equal(t, first, s.parked(""), "it gives way to nobody's wish")
	require.Equal(t, "reply to: three", s.ask("ada", "", with(three, "model", "sonnet")).text(t))
	pid := s.parked("sonnet")
	r := s.ask("bob", "", with(three, "model", "sonnet"))
	require.Equal(t, pid, r.pid)
	require.Equal(t, "claude-sonnet-5-5", s.lastCall().Model)
	require.False(t, bytes.Contains(s.lastCall().Body, []byte("local-command")), "the CLI tells of a change of model")
}

// A process that isn't there any more, or hasn't come to its gate, costs its user a start and nothing else.
func TestParked_WhatGoesWrongAtTheGateCostsAStart(t *testing.T) {
	t.Parallel()
	s := newParking(t)
	pid := s.parked("")
	kill(t, pid)
	r := s.ask("ada", "", three)
	require.Equal(t, "reply to: three", r.text(t))
	require.NotEqual(t, pid, r.pid)
	require.Equal(t, []string{"user: one", "assistant: two", "user: three"}, s.lastCall().Messages())
}

// beginnings are requests for new conversations, where there is no standby.
var beginnings = map[string]fields{
	"an id of the client's": {"session_id": session},
	"a system prompt":       {"session_id": session, "system": "You are a zebra."},
	"settings": {"session_id": session, "model": "sonnet", "permission_mode": "plan",
		"thinking": fields{"type": "disabled"}},
}

// The API sees of a conversation that begins at a gate what it sees of one that begins with a start.
func TestParked_ANewConversationNeedsNoStart(t *testing.T) {
	t.Parallel()
	for name, more := range beginnings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := fields{"model": nil}
			maps.Copy(request, more)
			s, plain := newParking(t), newConfined(t)
			pid := s.parked("")
			r := s.ask("ada", "one", request)
			require.Equal(t, "reply to: one", r.text(t))
			require.Equal(t, pid, r.pid)
			require.Equal(t, pool.ProcessStandby, r.process)
			require.Equal(t, "none", r.receipt().Get("context").Str)
			plain.ask("ada", "one", request)
			require.Equal(t, []string{"user: one"}, s.lastCall().Messages())
			require.Equal(t, prompt(plain), prompt(s))
			require.False(t, bytes.Contains(s.lastCall().Body, []byte("local-command")))

			require.Equal(t, pool.ProcessReused, s.ask("ada", "two", request).process)
			s.ask("ada", "[[status=400]]", request) // is undone
			kill(t, pid)
			r = s.ask("ada", "three", request)
			require.Equal(t, pool.ProcessResumed, r.process)
			require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two",
				"user: three"}, s.lastCall().Messages())
		})
	}
}

func TestParked_AFirstTurnThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newParking(t)
	pid := s.parked("")
	r := s.ask("ada", "[[status=400]]", fields{"model": nil, "session_id": session})
	require.Equal(t, pid, r.pid)
	r = s.ask("ada", "one", fields{"model": nil, "session_id": session})
	require.Equal(t, "reply to: one", r.text(t))
	require.Equal(t, []string{"user: one"}, s.lastCall().Messages())
}

func TestParked_AFallbackModelIsKnownNextTime(t *testing.T) {
	t.Parallel()
	s := newParking(t, replacedSoon)
	s.parked("")
	s.ask("ada", "one", fields{"session_id": session, "model": "haiku", "fallback_model": "sonnet"})
	pid := s.parked("haiku")
	r := s.ask("ada", "one", fields{"session_id": "11111111-2222-4333-8444-666666666666", "model": "haiku",
		"fallback_model": "sonnet"})
	require.Equal(t, pid, r.pid)
}

func TestParked_AnInteractiveConversationNeedsNoStartTheNextTime(t *testing.T) {
	t.Parallel()
	s := newParking(t, replacedSoon)
	s.parked("")
	more := fields{"model": "haiku", "interactive": true, "permission_mode": "default"}
	s.ask("ada", "one", with(more, "session_id", session))
	pid := s.parked("haiku")
	i := s.converse(t.Context(), "bob", "11111111-2222-4333-8444-666666666666", write, more)
	status, body := i.answers(i.asked().Get("request_id").Str, allowed)
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, "done", i.toolSaid())
	require.Equal(t, []string{pid}, i.pids)
}

// Who began with a standby comes back some day: what is parked is for the model by then.
func TestParked_TheModelOfWhoBeginsWithAStandbyIsKnownNextTime(t *testing.T) {
	t.Parallel()
	s := newParking(t, replacedSoon, withStandby(1))
	s.awaitStandbys(1)
	s.parked("")
	require.Equal(t, pool.ProcessStandby, s.ask("ada", "one", fields{"model": "haiku"}).process)
	pid := s.parked("haiku")
	s.reap()
	r := s.ask("ada", "two", fields{"model": "haiku"})
	require.Equal(t, "reply to: two", r.text(t))
	require.Equal(t, pid, r.pid)
}
