package pool_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// A conversation of which the archive has nothing but what can't be read goes on all the same, with what its request
// says was said before, or with nothing, and the receipt says so.
func TestHandoff_ADamagedConversationGoesOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		system  string // kept apart if it is large
		history []fields
		context string
		sees    []string
	}{
		"with nothing":                       {"", nil, "lost", []string{"user: three"}},
		"with nothing, its settings neither": {strings.Repeat("s", 64<<10), nil, "lost", []string{"user: three"}},
		"with a history": {"", []fields{{"role": "user", "content": "one"}, {"role": "assistant",
			"content": "reply to: one"}}, "seeded",
			[]string{"user: one", "assistant: reply to: one", "user: three"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, dir := kept(t)
			first := newScriptedService(t, keepingIn(store))
			session := fields{"session_id": uuid.NewString()}
			began := fields{"session_id": session["session_id"]}
			if c.system != "" {
				began["system"] = c.system
			}
			first.ask("ada", "one", began).text(t)
			saved(t, dir, 1)
			first.pool.Close()
			damage(t, records(t, dir)[0])

			s := newScriptedService(t, keepingIn(store))
			session["messages"] = append(c.history, fields{"role": "user", "content": "three"})
			r := s.ask("ada", "", session)
			require.Equal(t, "reply to: three", r.text(t))
			require.Equal(t, c.context, r.receipt().Get("context").Str)
			require.Equal(t, c.sees, s.lastCall().Messages())
		})
	}
}
