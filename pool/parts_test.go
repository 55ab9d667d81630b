package pool_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// The ways in which clients keep an answer.
var keeping = map[string]func(r reply) string{
	"all lines": func(r reply) string { return strings.Join(r.texts(), "") },
	"the last message": func(r reply) string {
		texts := r.texts()
		return texts[len(texts)-1]
	},
	"deltas": func(r reply) string {
		var all strings.Builder
		for _, e := range r.of("stream_event") {
			all.WriteString(e.Get("event.delta.text").Str)
		}
		return all.String()
	},
	"the result": func(r reply) string { return r.of("result")[0].Get("result").Str },
}

// session is the conversation's id.
func (r reply) session() string { return r.of("system")[0].Get("session_id").Str }

// texts are those of the assistant's lines.
func (r reply) texts() (texts []string) {
	for _, e := range r.of("assistant") {
		e.Get("message.content").ForEach(func(_, block gjson.Result) bool {
			if block.Get("type").Str == "text" {
				texts = append(texts, block.Get("text").Str)
			}
			return true
		})
	}
	return texts
}

// An answer may come in parts, or half of it twice. However its client keeps it, the conversation is found by it.
func TestPool_AConversationIsFoundByAnAnswerThatCameInParts(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	for name, text := range map[string]string{
		"continued":              "[[1:stop=max_tokens]]",
		"continued thrice":       "[[1:stop=max_tokens]][[2:stop=max_tokens]][[3:stop=max_tokens]]",
		"refused":                "[[1:stop=refusal]]",
		"paused":                 "[[stop=pause_turn]]",
		"cut":                    "[[1:cut]]",
		"an error, then whole":   "[[1:error=overloaded_error]]",
		"a word before the tool": `[[1:tool=Bash {"command":"echo hi"}]][[say=let me see. ]]`,
	} {
		user, question := strings.ReplaceAll(name, " ", "-"), name+" "+text
		first := s.ask(user, question, nil)
		first.text(t)
		calls := len(s.api.Calls())
		for way, keep := range keeping {
			said := keep(first)
			messages := []fields{{"role": "user", "content": question}, {"role": "assistant", "content": said},
				{"role": "user", "content": "lilac [[status=400]]"}}
			next := s.ask(user, "", fields{"messages": messages})
			require.Equal(t, first.session(), next.session(), "%s, kept as %s: %q, %s", name, way, said, next.receipt())
		}
		require.Greater(t, len(s.api.Calls()), calls)
		require.Equal(t, "reply to: next", s.ask(user, "next", nil).text(t), name)
		require.NotContains(t, string(s.lastCall().Body), "lilac", name)
	}
}
