package pool_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
	"claudepool/pool"
)

const dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="

func TestConversation_IsFoundAgainHoweverItsClientKeepsTheAnswers(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			c := &client{service: s, user: "ada", way: way, session: uuid.NewString()}
			session := ""
			for i, question := range []string{
				blocks(text("first "), text("second")),
				"streamed again [[1:cut]]",
				blocks(text("before "), thinking("hm"), text("after")),
				blocks(text("I run it\n"), running("echo hi")),
				blocks(),
				blocks(text("last \n")),
			} {
				picture := fmt.Sprintf(`[{"type":"image","source":{"type":"base64","media_type":"image/png","data":%q}},`+
					`{"type":"text","text":%q}]`, dot, question)
				r := c.ask(json.RawMessage(picture), nil)
				require.True(t, isGood(r), r.body)
				if session == "" {
					session = sessionOf(r)
				}
				require.Equal(t, session, sessionOf(r), "question %d", i)
				for _, m := range c.kept { // as clients do that read and write it
					if raw, ok := m["content"].(json.RawMessage); ok {
						m["content"] = json.RawMessage(strings.Replace(string(raw), `"type":"base64","media_type":"image/png"`,
							`"media_type": "image\/png", "type": "base64"`, 1))
					}
				}
			}
			require.True(t, isGood(c.ask(blocks(text("done")), nil)))
			seen := strings.Join(saw(s.lastCall()), "\n")
			for _, said := range []string{"first ", "second", "reply to: streamed again", "before ", "after", "I run it",
				"tool said: hi", "last"} {
				require.Equal(t, 1, strings.Count(seen, "| "+said)+strings.Count(seen, "assistant | "+said+"|"), said)
			}
			require.Equal(t, 1, s.pool.Conversations())
		})
	}
}

func TestConversation_WhereTheSameWasSaidInTwoNeitherIsTaken(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	for range 2 {
		s.ask("ada", "one", fields{"session_id": uuid.NewString()}).text(t)
	}
	c := &client{service: s, user: "ada", way: "joined", kept: []fields{user("one"), assistant("reply to: one")}}
	first := c.ask("two", nil)
	require.Equal(t, "reply to: two", first.text(t))
	require.Equal(t, []string{"user | one", "assistant | reply to: one", "user | two"}, saw(s.lastCall()))
	require.Equal(t, 3, s.pool.Conversations())
	require.Equal(t, sessionOf(first), sessionOf(c.ask("three", nil)))
	require.Equal(t, 3, s.pool.Conversations())
}

// Sent again at once: the client's connection broke, and nobody here can know it yet.
func TestConversation_TheSameRequestAfterAHangUpIsAnsweredThere(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"while the API answers":        "",
		"while a tool runs":            "sleep 20",
		"while a tool runs, deaf":      "trap '' TERM INT HUP; sleep 20",
		"while a tool's child is deaf": "(trap '' TERM INT HUP; sleep 20) & wait",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, allowing(t, "Bash"))
			c := &client{service: s, user: "ada", way: "joined"}
			session := sessionOf(c.ask("one", nil))
			seen, said := []string{"user: one"}, "reply to: one"
			rounds := 10
			if command != "" {
				rounds = 2 // each of which ends a process and starts the next: the first one, and one that was resumed
			}
			for i := range rounds {
				question := fmt.Sprintf("question %d [[words=3]][[delay=30ms]]", i)
				begun := func() bool { return s.api.Open() > 0 }
				if command != "" {
					mark := filepath.Join(s.root, "*", "work", "begun-"+strconv.Itoa(i))
					question = "question " + blocks(running(fmt.Sprintf("[ -e begun-%d ] && echo hi || { touch begun-%d; %s; }", i, i,
						command)))
					begun = func() bool { found, _ := filepath.Glob(mark); return len(found) > 0 }
				}
				c.abandon(question, begun)
				r := c.ask(question, nil)
				require.True(t, isGood(r), r.body)
				require.Equal(t, session, sessionOf(r))
				seen = append(seen, "assistant: "+said, "user: "+question)
				said = strings.TrimSpace(r.text(t))
				require.Equal(t, seen, s.lastCall().Messages(), "round %d", i)
			}
			require.Equal(t, 1, s.pool.Conversations())
		})
	}
}

// Of what a release before this one has archived only one digest is known: that of the result's text, and of blocks by
// their bytes. From the next turn on all are.
func TestConversation_OfAReleaseBeforeIsFoundByItsHistoryAndGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/fca6aad")))
	store := archive.NewFolder(dir, time.Hour)
	picture := fmt.Sprintf(`[{"type":"image","source":{"type":"base64","media_type":"image/png","data":%q}},`+
		`{"type":"text","text":"two [[words=3]]"}]`, dot)
	tool := `three [[tool=Bash {"command":"echo hi"}]]`
	kept := []fields{user("one"), assistant("reply to: one"), user(json.RawMessage(picture)),
		assistant([]fields{text("w0 w1 w2 ")}), user(tool), assistant("tool said: hi")}

	s := newService(t, keepingIn(store))
	c := &client{service: s, user: "fixture", way: "joined", kept: kept}
	first := c.ask("four "+blocks(text("a "), text("b")), nil)
	require.True(t, isGood(first), first.body)
	require.Equal(t, pool.ProcessResumed, first.process)
	seen := s.lastCall().Messages()
	require.Len(t, seen, 7)
	require.Equal(t, []string{"user: one", "assistant: reply to: one"}, seen[:2])
	require.Equal(t, []string{"assistant: w0 w1 w2", "user: " + tool, "assistant: tool said: hi"}, seen[3:6])
	require.Contains(t, string(s.lastCall().Body), dot)

	// which only the new ones bear
	c.kept[2] = user(json.RawMessage(strings.Replace(picture, `"type":"image"`, `"type" : "image"`, 1)))
	second := c.ask("five", nil)
	require.Equal(t, "reply to: five", second.text(t))
	require.Equal(t, sessionOf(first), sessionOf(second))
	require.Equal(t, 1, s.pool.Conversations())
	s.pool.Close()

	another := newService(t, keepingIn(store))
	c.service = another
	require.Equal(t, sessionOf(first), sessionOf(c.ask("six", nil)))
	require.Len(t, another.lastCall().Messages(), 11)
}
