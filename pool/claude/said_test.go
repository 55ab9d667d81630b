package claude

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// Entries of a turn in which two tools are called at once.
const (
	calls1 = `{"type":"assistant","uuid":"c1","parentUuid":"u1","message":{"id":"m1","content":[{"type":"tool_use",` +
		`"id":"t1"}]}}`
	calls2 = `{"type":"assistant","uuid":"c2","parentUuid":"c1","message":{"id":"m1","content":[{"type":"tool_use",` +
		`"id":"t2"}]}}`
	result1 = `{"type":"user","uuid":"r1","parentUuid":"c1","message":{"content":[{"type":"tool_result",` +
		`"tool_use_id":"t1"}]}}`
	result2 = `{"type":"user","uuid":"r2","parentUuid":"c2","message":{"content":[{"type":"tool_result",` +
		`"tool_use_id":"t2"}]}}`
	concludes = `{"type":"assistant","uuid":"c3","parentUuid":"r1","message":{"id":"m2","content":[{"type":"text",` +
		`"text":"done"}]}}`
	rewinds  = `{"type":"user","uuid":"u20","parentUuid":"u2","message":{"content":"instead"}}`
	beginner = `{"type":"user","uuid":"u21","parentUuid":null,"message":{"content":"from the start"}}`
)

func shortOf(said []HistoryMessage) string {
	var all []string
	for _, m := range said {
		one := m.Role[:1]
		for _, b := range gjson.ParseBytes(m.Content).Array() {
			one += " " + b.Get("text").Str + b.Get("id").Str + b.Get("tool_use_id").Str
		}
		all = append(all, one)
	}
	return strings.Join(all, ", ")
}

func TestSaid_IsTheMainConversationAsTheAPIHasIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, until, want string }{
		"plain":            {lines(question, reply, bookkept, again, reply2), "", "u one, a first, u two, a second"},
		"up to a turn":     {lines(question, reply, again, reply2), "u2", "u one, a first"},
		"no such turn":     {lines(question, reply), "gone", "u one, a first"},
		"what isn't of it": {lines(question, subagents, apiError, reminder, meta, reply), "", "u one, a first"},
		"a summary":        {lines(question, reply, boundary, summary, again), "", "u one, a first, u two"},
		"tools, one by one": {lines(question, calls1, result1, calls2, result2, concludes), "",
			"u one, a t1 t2, u t1 t2, a done"},
		"tools at once": {lines(question, calls1, calls2, result2, result1, concludes), "",
			"u one, a t1 t2, u t2 t1, a done"},
		"rewound":                 {lines(question, reply, again, reply2, rewinds), "", "u one, a first, u instead"},
		"rewound to the start":    {lines(question, reply, beginner), "", "u from the start"},
		"garbage":                 {"\x00\n{\n[]\n7\n" + strings.Repeat("[", 2000) + "\n" + lines(question), "", "u one"},
		"content of another kind": {lines(strings.Replace(question, `"one"`, `7`, 1), reply), "", "a first"},
		"nothing":                 {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said, first := Said([]byte(c.text), c.until, 0, 100)
			require.Equal(t, c.want, shortOf(said))
			require.Zero(t, first)
			for _, m := range said {
				require.True(t, json.Valid(m.Content), string(m.Content))
			}
		})
	}
}

func TestSaid_IsToldInParts(t *testing.T) {
	t.Parallel()
	var all []string
	for i := range 10 {
		all = append(all, strings.NewReplacer(`"u1"`, fmt.Sprintf(`"q%d"`, i), "one", fmt.Sprint(i)).Replace(question))
	}
	text := []byte(lines(all...))
	for _, c := range []struct {
		before, limit, first int
		want                 string
	}{
		{0, 3, 7, "u 7, u 8, u 9"}, {7, 3, 4, "u 4, u 5, u 6"}, {1, 3, 0, "u 0"}, {99, 2, 8, "u 8, u 9"},
	} {
		said, first := Said(text, "", c.before, c.limit)
		require.Equal(t, c.want, shortOf(said))
		require.Equal(t, c.first, first)
	}
}

func TestSaid_WhatIsLongIsCutOrLeftOut(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", mostBlock)
	blocks := fmt.Sprintf(`[{"type":"text","text":%q},{"type":"image","source":{"data":%q}},{"type":"tool_use","id":"t1",`+
		`"name":"Write","input":{"content":%q}},{"type":"tool_result","tool_use_id":"t1","content":%q},`+
		`{"type":"text","text":"short"}]`, long, long, long, long)
	said, _ := Said([]byte(lines(strings.Replace(question, `"one"`, blocks, 1))), "", 0, 10)
	require.Len(t, said, 1)
	require.Less(t, len(said[0].Content), mostBlock)
	content := gjson.ParseBytes(said[0].Content).Array()
	require.Len(t, content, 5)
	require.Regexp(t, "^é+…$", content[0].Get("text").Str)
	require.Equal(t, "[image of 131109 bytes, left out]", content[1].Get("text").Str)
	require.Equal(t, "Write", content[2].Get("name").Str)
	require.Equal(t, "t1", content[3].Get("tool_use_id").Str)
	require.Equal(t, "short", content[4].Get("text").Str)

	var all []string
	for range 20 {
		all = append(all, strings.Replace(question, "one", strings.Repeat("x", mostBlock/2), 1))
	}
	said, first := Said([]byte(lines(all...)), "", 0, 100)
	require.Len(t, said, mostSaid/(mostBlock/2)-1)
	require.Equal(t, 20-len(said), first)
}
