package api

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func said(role, text string) Message {
	raw, _ := json.Marshal(text)
	return Message{Role: role, Content: raw}
}

func blocks(role, content string) Message {
	return Message{Role: role, Content: json.RawMessage(content)}
}

// answer is an assistant's part of a turn, in all forms in which a client may keep it.
type answer struct {
	reply Reply
	forms map[string][]Message
}

func newAnswer(r *rand.Rand) answer {
	word := func() string {
		return []string{"a", "b\n", " c", "d e", "\u2028", `"\`}[r.IntN(6)] + fmt.Sprint(r.IntN(100))
	}
	switch first, second, last, void := word(), word(), word(), word(); r.IntN(4) {
	case 0: // a text
		return answer{Reply{first, first, first, first, first, first}, map[string][]Message{
			"text": {said("assistant", first)}, "block": {blocks("assistant", list1("text", first))}}}
	case 1: // nothing
		return answer{Reply{}, map[string][]Message{"left out": nil, "empty": {said("assistant", "")},
			"no block": {blocks("assistant", "[]")}}}
	case 2: // a tool between two messages, of which the last has two blocks
		call := `{"type":"tool_use","id":"1","name":"x","input":{}}`
		return answer{Reply{first + second + last, second + last, last, first + second + last, last, first + second + last},
			map[string][]Message{
				"all": {blocks("assistant", "["+text1(first)+","+call+"]"), blocks("user",
					`[{"type":"tool_result","tool_use_id":"1"}]`),
					blocks("assistant", "["+text1(second)+","+text1(last)+"]")},
				"joined":  {said("assistant", first+second+last)},
				"message": {blocks("assistant", "["+text1(second)+","+text1(last)+"]")}, "block": {said("assistant", last)}}}
	default: // streamed twice
		return answer{Reply{first, first, first, void + first, first, void + first}, map[string][]Message{
			"text": {said("assistant", first)}, "deltas": {said("assistant", void+first)}}}
	}
}

func text1(text string) string {
	raw, _ := json.Marshal(text)
	return `{"type":"text","text":` + string(raw) + `}`
}

func list1(_, text string) string { return "[" + text1(text) + "]" }

// However a client keeps the answers, as long as it keeps all in the same way, its history is one of the conversation's
// digests.
func TestDigests_AConversationIsFoundHoweverItsClientKeepsTheAnswers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		answers := make([]answer, 1+r.IntN(5))
		var d Digests
		for i := range answers {
			answers[i] = newAnswer(r)
			d = d.Extend([]Message{said("user", fmt.Sprint("question ", i))}, answers[i].reply)
		}
		for _, ways := range [][]string{{"all", "text", "left out"}, {"joined", "block", "text", "empty"},
			{"message", "text", "no block"},
			{"block", "text", "left out"}, {"joined", "deltas", "text", "left out"}} {
			var history []Message
			for i, a := range answers {
				history = append(append(history, said("user", fmt.Sprint("question ", i))), a.kept(ways)...)
			}
			_, found := d.Way(HistoryOf(history).Now)
			require.True(t, found, "%s: %s", ways, history)
			other := append(history, said("user", "more"))
			_, found = d.Way(HistoryOf(other).Now)
			require.False(t, found)
		}
	}
}

// Clients that know no blocks are given texts of different messages with a blank line between them, and some trim
// lines.
func TestDigests_WhiteSpaceInAnswersIsNotWhatTellsConversationsApart(t *testing.T) {
	asked := []Message{said("user", "a b")}
	d := Digests{}.Extend(asked, Reply{All: "let me see it is", Shown: "let me see itit is"}).
		Extend(asked, Reply{All: "so", Shown: "so"})
	for text, way := range map[string]int{"let me see\n\nit\u00a0is ": looseAll, "let me see\n\nit\n\nit is": looseShown} {
		history := append(append(asked[:1:1], said("assistant", text)), asked[0], said("assistant", " so"))
		found, _ := d.Way(HistoryOf(history).Loose)
		require.Equal(t, way, found, text)
		_, is := d.Way(HistoryOf(append(history[:3:3], said("assistant", "no"))).Loose)
		require.False(t, is)
		history[0] = said("user", "ab")
		_, is = d.Way(HistoryOf(history).Loose)
		require.False(t, is, "in what users say it counts")
	}
}

func (a answer) kept(ways []string) []Message {
	for _, way := range ways {
		if m, is := a.forms[way]; is {
			return m
		}
	}
	panic(fmt.Sprint("no way of ", ways))
}

func TestDigests_AHistoryBeginsWhereItEnds(t *testing.T) {
	history := []Message{said("user", "a"), said("assistant", "b"), said("user", "c")}
	asked := []Message{said("user", "d"), said("user", "e")}
	d := HistoryOf(history).Begin().Extend(asked, Reply{"f", "f", "f", "f", "f", "f"})
	longer := append(append(history, asked...), said("assistant", "f\n"))
	way, found := d.Way(HistoryOf(longer).Now)
	require.True(t, found)
	require.Zero(t, way)
	require.Equal(t, d.Former(), digestSlice(HistoryOf(longer).Former))
}

func digestSlice(d Digest) []byte { return d[:] }

// These are digests that fca6aad has computed.
func TestHistoryOf_KnowsWhatTheReleaseBeforeKept(t *testing.T) {
	for want, history := range map[string][]Message{
		"c6461c170fa775e3bf8c46ea333661bf7538c52551ac43a78a8dcae4a5859c0f": {said("user", "a "),
			said("assistant", "let me see"), blocks("user", `[{"type":"tool_result","content":"x"}]`),
			blocks("assistant", `[{"type":"thinking","thinking":"t"},{"type":"text","text":"b\n"}]`)},
		"e2509e56c979a2c52c28320cd76a0d3cfa0ff132bc628c49217284e1a14df4a2": {blocks("user",
			`[{"type":"text","text":"q"},{"type":"image","source":{"b": 1,"a":"2"}}]`), said("assistant", "a")},
	} {
		require.Equal(t, want, fmt.Sprintf("%x", HistoryOf(history).Former))
	}
}

func TestDigests_OfAFormerReleaseAreCompletedByAHistory(t *testing.T) {
	history := []Message{said("user", "a"), said("assistant", "b")}
	h := HistoryOf(history)
	kept := DigestsFrom(h.Former[:], nil)
	_, found := kept.Way(h.Former)
	require.True(t, found)
	_, found = kept.Way(h.Now)
	require.False(t, found)
	asked, reply := []Message{said("user", "c")}, Reply{"d", "d", "d", "d", "d", "d"}
	longer := HistoryOf(append(history, asked[0], said("assistant", "d")))
	_, found = kept.Complete(h).Extend(asked, reply).Way(longer.Now)
	require.True(t, found)
	_, found = kept.Extend(asked, reply).Way(longer.Former)
	require.True(t, found, "a turn that came without a history")
	require.Equal(t, kept, DigestsFrom(kept.Former(), kept.Bytes()))
}

// Releases before this one keep fewer, without those that stand before the last one.
func TestDigests_OfTheReleaseBeforeKeepTheirPlaces(t *testing.T) {
	h := HistoryOf([]Message{said("user", "a"), said("assistant", "b")})
	d := h.Begin().Extend([]Message{said("user", "c")}, Reply{"1", "2", "3", "4", "5", "6"})
	all, size := d.Bytes(), len(Digest{})
	for ways := keptShown; ways < keptFormer; ways++ {
		want := d
		clear(want[ways:keptFormer])
		require.Equal(t, want, DigestsFrom(d.Former(), slices.Concat(all[:ways*size], d.Former())))
	}
}

func TestHistoryOf_BlocksCountByWhatTheyMean(t *testing.T) {
	image := func(source string) []Message {
		return []Message{blocks("user", `[{"type":"text","text":"q"},{"type":"image","source":`+source+`}]`),
			said("assistant", "a")}
	}
	one := HistoryOf(image(`{"type":"base64","media_type":"image/png","data":"AAAA"}`)).Now
	require.Equal(t, one, HistoryOf(image(`{ "data" : "A\u0041AA", "type":"base64","media_type":"image\/png" }`)).Now)
	require.NotEqual(t, one, HistoryOf(image(`{"type":"base64","media_type":"image/png","data":"AAAB"}`)).Now)
	marked := []Message{blocks("user", `[{"type":"text","text":"q","cache_control":{"type":"ephemeral"}},
		{"cache_control":null,"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]`),
		said("assistant", "a")}
	require.Equal(t, one, HistoryOf(marked).Now)
	require.NotEqual(t, one, HistoryOf([]Message{said("user", "q"), said("assistant", "a")}).Now)
	require.NotEqual(t, HistoryOf([]Message{said("user", "ab")}).Now,
		HistoryOf([]Message{said("user", "a"), said("user", "b")}).Now)
}

func TestRequest_OfSeveralMessagesOfTheUserTheLastOrAllAreAsked(t *testing.T) {
	req, err := Decode([]byte(saying(`[{"role":"user","content":"a"},{"role":"assistant","content":"b"},
		{"role":"user","content":"c"},
		{"role":"assistant","content":" "},{"role":"user","content":[{"type":"text","text":"d"}]}]`)))
	require.NoError(t, err)
	readings := req.Readings()
	require.Len(t, readings, 2)
	require.Len(t, readings[0].Before, 4)
	require.JSONEq(t, `[{"type":"text","text":"d"}]`, string(readings[0].Message()))
	require.Len(t, readings[1].Before, 2)
	require.JSONEq(t, `[{"type":"text","text":"c"},{"type":"text","text":"d"}]`, string(readings[1].Message()))

	after := readings[1].History.Begin().Extend(readings[1].Asked, Reply{All: "e", Result: "e"})
	kept := HistoryOf(append(req.Messages, said("assistant", "e")))
	require.Equal(t, kept.Now, after[keptAll], "the empty answer counts for nothing")
	require.Equal(t, kept.Former, after[keptFormer])
}

func TestReading_WhatToolsSaidBelongsToWhatWasSaidBefore(t *testing.T) {
	req, err := Decode([]byte(saying(`[{"role":"user","content":"a"},
		{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"x","input":{}}]},
		{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":"r"},{"type":"text","text":"b"}]}]`)))
	require.NoError(t, err)
	reading := req.Readings()[0]
	require.JSONEq(t, `[{"type":"text","text":"b"}]`, string(reading.Message()))
	seed := reading.Seed()
	require.Len(t, seed, 3)
	require.JSONEq(t, `[{"type":"tool_result","tool_use_id":"1","content":"r"}]`, string(seed[2].Content))
}

func TestMerged_SuccessiveMessagesOfARoleAreOne(t *testing.T) {
	merged := Merged([]Message{said("user", "a"), blocks("user", `[{"type":"image","source":{}}]`), said("assistant", "b"),
		said("assistant", ""),
		blocks("assistant", `[{"type":"tool_use","id":"1","name":"x","input":{"cache_control":1}}]`), said("user", "c"),
		blocks("user", `[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"r","cache_control":{}}`+
			`],"cache_control":{}}]`)})
	var texts []string
	for _, m := range merged {
		texts = append(texts, m.Role+" "+string(m.Content))
	}
	require.Equal(t, []string{
		`user [{"type":"text","text":"a"},{"type":"image","source":{}}]`,
		`assistant [{"type":"text","text":"b"},{"type":"tool_use","id":"1","name":"x","input":{"cache_control":1}}]`,
		`user [{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"r"}]},{"type":"text","text":"c"}]`,
	}, texts)
}

func TestMerged_NoMarkForCachingIsLeft(t *testing.T) {
	for _, content := range []string{
		`[{"type":"text","text":"a","cache_control":{"type":"ephemeral","ttl":"1h"}}]`,
		`[{"type":"text","cache\u005fcontrol":{},"text":"a"}]`,
		`[{"type":"document","source":{"type":"content","content":[{"type":"text","text":"a","cache_control":{}}]}},` +
			`{"type":"text","text":"b"}]`,
		`[{"type":"search_result","content":[{"type":"text","text":"a","cache_control":{}}]},{"type":"text","text":"b"}]`,
	} {
		for _, m := range Merged([]Message{blocks("user", content)}) {
			require.NotContains(t, strings.ReplaceAll(string(m.Content), `\u005f`, "_"), "cache_control")
			require.True(t, json.Valid(m.Content), string(m.Content))
		}
	}
}

func TestDecode_ToolCallsAndTheirResultsBelongTogether(t *testing.T) {
	call := func(id string) string {
		return `{"role":"assistant","content":[{"type":"tool_use","id":"` + id + `","name":"x","input":{}}]}`
	}
	result := func(id string) string {
		return `{"role":"user","content":[{"type":"tool_result","tool_use_id":"` + id +
			`","content":"r"},{"type":"text","text":"t"}]}`
	}
	for messages, index := range map[string]string{
		`{"role":"user","content":"a"},` + call("1") + `,{"role":"user","content":"b"}`:    "messages.1.",
		`{"role":"user","content":"a"},` + call("1") + `,` + call("2") + `,` + result("2"): "messages.1.",
		`{"role":"user","content":"a"},` + call("1") + `,` + result("2"):                   "messages.2.",
		result("1"): "messages.0.",
		`{"role":"user","content":"a"},` + call("1") + `,` + result("1") + `,` + result("1"): "messages.3.",
	} {
		_, err := Decode([]byte(saying("[" + messages + "]")))
		require.Contains(t, requireClientError(t, err).Message, index, messages)
	}
	_, err := Decode([]byte(saying(`[{"role":"user","content":"a"},` + call("1") + `,` + call("2") + `,` + result("2") +
		`,` + result("1") + `]`)))
	require.NoError(t, err)
}
