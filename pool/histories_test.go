package pool_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/pooltest"
)

// What clients that keep their history themselves send.
func user(content any) fields      { return fields{"role": "user", "content": content} }
func assistant(content any) fields { return fields{"role": "assistant", "content": content} }

func text(of string) fields { return fields{"type": "text", "text": of} }
func toolUse(id string) fields {
	return fields{"type": "tool_use", "id": id, "name": "look", "input": fields{"path": "a"}}
}
func toolResult(id string, content any) fields {
	return fields{"type": "tool_result", "tool_use_id": id, "content": content}
}

// saw is what the API was sent, but for what the CLI adds of its own: for each message the role and the blocks, of
// those of text the text alone.
func saw(c pooltest.Call) (all []string) {
	for _, m := range gjson.GetBytes(c.Body, "messages").Array() {
		said := []string{m.Get("role").Str}
		for _, b := range m.Get("content").Array() { // a string counts as its only element
			switch {
			case b.Type == gjson.String:
				said = append(said, b.Str)
			case strings.HasPrefix(b.Get("text").Str, "<system-reminder>"):
			case b.Get("type").Str == "text":
				said = append(said, strings.TrimRight(b.Get("text").Str, "\n")) // which the CLI adds as it joins messages
			default:
				said = append(said, unmarked(b))
			}
		}
		switch n := len(all); {
		case said[0] == "system":
		case n > 0 && strings.HasPrefix(all[n-1], said[0]+" "): // which the API takes as one
			all[n-1] = strings.Join(append([]string{all[n-1]}, said[1:]...), " | ")
		default:
			all = append(all, strings.Join(said, " | "))
		}
	}
	return all
}

// unmarked is a block without a mark for caching, its keys in order.
func unmarked(b gjson.Result) string {
	var block map[string]any
	_ = json.Unmarshal([]byte(b.Raw), &block)
	delete(block, "cache_control")
	raw, _ := json.Marshal(block)
	return string(raw)
}

// looked and found are a tool's call and result as saw has them.
func looked(id string) string {
	return `{"id":"` + id + `","input":{"path":"a"},"name":"look","type":"tool_use"}`
}
func found(id string) string {
	return `{"content":"` + id + ` found","tool_use_id":"` + id + `","type":"tool_result"}`
}

// histories are what a conversation may begin with, and what the API is to see of it.
var histories = map[string]struct {
	messages []fields
	seen     []string
}{
	"two questions at the end": {
		[]fields{user("one"), assistant("first"), user("two"), user("three")},
		[]string{"user | one", "assistant | first", "user | two | three"},
	},
	"two questions in the middle": {
		[]fields{user("one"), user([]fields{text("and"), text("one more")}), assistant("first"), user("two")},
		[]string{"user | one | and | one more", "assistant | first", "user | two"},
	},
	"two answers": {
		[]fields{user("one"), assistant("first"), assistant([]fields{text("second")}), user("two")},
		[]string{"user | one", "assistant | first | second", "user | two"},
	},
	"an answer of several texts": {
		[]fields{user("one"), assistant([]fields{text("first"), text("second")}), user("two")},
		[]string{"user | one", "assistant | first | second", "user | two"},
	},
	"an empty answer": {
		[]fields{user("one"), assistant(""), user("two"), assistant([]fields{text("second"), text(" ")}), user("three")},
		[]string{"user | one | two", "assistant | second", "user | three"},
	},
	"tools inside": {
		[]fields{user("one"), assistant([]fields{text("I look"), toolUse("t1"), toolUse("t2")}),
			user([]fields{toolResult("t2", "t2 found"), toolResult("t1", "t1 found")}),
			assistant("first"), user("two")},
		[]string{"user | one", "assistant | I look | " + looked("t1") + " | " + looked("t2"), "user | " + found("t2") +
			" | " + found("t1"), "assistant | first", "user | two"},
	},
	"a tool's result with text inside": {
		[]fields{user("one"), assistant([]fields{toolUse("t1")}), user([]fields{text("go on"), toolResult("t1", "t1 found")}),
			assistant("first"), user("two")},
		[]string{"user | one", "assistant | " + looked("t1"), "user | go on | " + found("t1"), "assistant | first",
			"user | two"},
	},
	"a tool's result beside the question": {
		[]fields{user("one"), assistant([]fields{text("I look"), toolUse("t3")}),
			user([]fields{toolResult("t3", "t3 found"), text("and?")})},
		[]string{"user | one", "assistant | I look | " + looked("t3"), "user | " + found("t3") + " | and?"},
	},
	"tools' results before the question": {
		[]fields{user("one"), assistant([]fields{toolUse("t1"), toolUse("t2")}), user([]fields{toolResult("t1", "t1 found")}),
			user([]fields{toolResult("t2", "t2 found")}), user("and?")},
		[]string{"user | one", "assistant | " + looked("t1") + " | " + looked("t2"), "user | " + found("t1") + " | " +
			found("t2") + " | and?"},
	},
	"a tool's result, a question and no answer": {
		[]fields{user("one"), assistant([]fields{toolUse("t3")}), user([]fields{toolResult("t3", "t3 found")}),
			user("hello?"), assistant(""), user("and?")},
		[]string{"user | one", "assistant | " + looked("t3"), "user | " + found("t3") + " | hello? | and?"},
	},
}

// conversations are histories that one client has had one after the other: each of them is in one, and those whose end
// is what they are about are at one's end. Every conversation costs two starts of the CLI.
var conversations = [][]string{
	{"two questions in the middle", "an empty answer", "two questions at the end"},
	{"tools inside", "two answers", "a tool's result beside the question"},
	{"an answer of several texts", "tools' results before the question"},
	{"a tool's result with text inside", "a tool's result, a question and no answer"},
}

// conversation is what a client has said in these histories, and what the API is to see of it.
func conversation(names []string) (messages []fields, seen []string) {
	for i, name := range names {
		if i > 0 {
			messages, seen = append(messages, assistant("so")), append(seen, "assistant | so")
		}
		messages, seen = append(messages, histories[name].messages...), append(seen, histories[name].seen...)
	}
	return messages, seen
}

// The API sees the client's messages, those of one role as one, and nothing that nobody said; also when the first turn
// fails, and when its process ends and another goes on from the transcript.
func TestHistory_ReachesTheAPIAsTheClientSentIt(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, slices.Collect(maps.Keys(histories)), slices.Concat(conversations...))
	for _, names := range conversations {
		t.Run(strings.Join(names, ", "), func(t *testing.T) {
			t.Parallel()
			messages, seen := conversation(names)
			s := newService(t, nil)
			first := s.ask("ada", "", fields{"messages": messages})
			require.Equal(t, http.StatusOK, first.status, first.body)
			require.Equal(t, seen, saw(s.lastCall()))
			require.Len(t, s.api.Calls(), 1)

			kill(t, first.pid)
			next := s.ask("ada", "", fields{"messages": append(messages, assistant(first.text(t)), user("more"))})
			require.Equal(t, "reply to: more", next.text(t))
			require.Equal(t, append(seen, "assistant | "+first.text(t), "user | more"), saw(s.lastCall()))
			require.Equal(t, sessionOf(first), sessionOf(next))
		})
	}
}

// What the CLI would take for a turn that was interrupted, and answer by itself, at each of its starts.
func TestHistory_ThatEndsInAToolsResultOutlivesFailures(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	begin := []fields{user("one"), assistant([]fields{toolUse("t1")})}
	ask := func(question string) reply {
		return s.ask("ada", "", fields{"messages": append(begin,
			user([]fields{toolResult("t1", "t1 found"), text(question)}))})
	}
	seen := func(question string) []string {
		return []string{"user | one", "assistant | " + looked("t1"), "user | " + found("t1") + " | " + question}
	}
	failed := ask("[[status=500]]")
	require.True(t, failed.of("result")[0].Get("is_error").Bool())
	require.Equal(t, seen("[[status=500]]"), saw(s.lastCall()))
	before := len(s.api.Calls())
	killed := make(chan reply)
	go func() { killed <- ask("[[silence]]") }()
	s.awaitCall(before)
	for _, pid := range s.processes() {
		kill(t, pid)
	}
	require.Len(t, (<-killed).of("error"), 1)
	require.Equal(t, "reply to: and?", ask("and?").text(t))
	require.Equal(t, seen("and?"), saw(s.lastCall()))
}

// An empty answer is one, also to a process that goes on from the transcript. What the CLI itself asks in such a turn
// stays.
func TestHistory_AnEmptyAnswerIsNotReplacedByOneThatNobodyGave(t *testing.T) {
	t.Parallel()
	for name, empty := range map[string]string{"nothing": blocks(), "white space": blocks(text(" \n")),
		"thinking": blocks(thinking("hm"))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			s.ask("ada", "one "+blocks(text("first")), nil)
			r := s.ask("ada", empty, nil)
			require.True(t, isGood(r), r.body)
			kill(t, r.pid)
			require.Equal(t, "third", s.ask("ada", "three "+blocks(text("third")), nil).text(t))
			seen := saw(s.lastCall())
			require.Len(t, seen, 3)
			require.Equal(t, "user | "+empty+" | three "+blocks(text("third")), strings.ReplaceAll(seen[2], nudge+" | ", ""))
		})
	}
}

// The API takes four marks for caching, and none for an hour behind one for five minutes; the CLI sets three for an
// hour.
func TestHistory_TheAPIGetsTheCLIsOwnMarksForCachingAlone(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	marked := func(block fields) fields {
		block["cache_control"] = fields{"type": "ephemeral", "ttl": "5m"}
		return block
	}
	nested := marked(toolResult("t1", []fields{marked(text("t1 found"))}))
	history := []fields{user([]fields{marked(text("one"))}),
		assistant([]fields{marked(text("I look")), marked(toolUse("t1"))}), user([]fields{nested}),
		assistant([]fields{marked(text("first"))}), user([]fields{marked(text("two")), marked(text("three"))})}
	ask := func(history []fields) {
		r := s.ask("ada", "", fields{"messages": history, "system": []fields{marked(text("be brief"))}})
		require.True(t, isGood(r), r.body)
		body := string(s.lastCall().Body)
		require.Contains(t, body, "be brief")
		require.NotContains(t, body, `"5m"`)
		marks := strings.Count(body, `"cache_control"`)
		require.Positive(t, marks)
		require.LessOrEqual(t, marks, 4)
	}
	ask(history)
	ask(append(history, assistant("w"), user([]fields{marked(text("four"))})))
	result := marked(toolResult("t2", []fields{marked(text("t2 found"))}))
	ask([]fields{user("one"), assistant([]fields{marked(toolUse("t2"))}), user([]fields{result, marked(text("and?"))})})
}

// nudge is what the CLI asks after an empty answer.
const nudge = "[Your previous response had no visible output. Please continue and produce a user-visible response.]"

// sessionOf is the id of the conversation that answered.
func sessionOf(r reply) string { return r.of("result")[0].Get("session_id").Str }
