package claude

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// quoted is a JSON string.
func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

// Lines as the CLI writes them, each of them with the uuid that it has in the transcript.
func started(id string) string {
	return event(`{"type":"message_start","message":{"id":"` + id + `"}}`)
}

func event(e string) string {
	return `{"type":"stream_event","event":` + e + `,"session_id":"s","parent_tool_use_id":null,"uuid":"e"}`
}

func delta(text string) string {
	return event(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":` + quoted(text) + `}}`)
}

func said(id, uuid string, texts ...string) string {
	blocks := make([]string, len(texts))
	for i, text := range texts {
		blocks[i] = `{"type":"text","text":` + quoted(text) + `}`
	}
	return fmt.Sprintf(`{"type":"assistant","message":{"id":%q,"content":[%s]},"parent_tool_use_id":null,"uuid":%q}`,
		id, strings.Join(blocks, ","), uuid)
}

const (
	whole = `{"type":"message_delta","delta":{"stop_reason":"end_turn"}}`
	stop  = `{"type":"message_stop"}`
)

func answerOf(t *testing.T, lines ...string) *Answer {
	t.Helper()
	a := &Answer{}
	for _, text := range lines {
		line, err := ParseLine([]byte(text))
		require.NoError(t, err)
		a.Add(&line)
	}
	return a
}

func TestAnswer_HasWhatTheMainConversationSaid(t *testing.T) {
	called := `{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","id":"t","name":"Bash",` +
		`"input":{"text":"no"}}]},` +
		`"parent_tool_use_id":null,"uuid":"u2"}`
	result := `{"type":"user","message":{"role":"user","content":[{"type":"tool_result","content":"no"}]},` +
		`"parent_tool_use_id":null,"uuid":"u3"}`
	sub := `{"type":"assistant","message":{"id":"m9","content":[{"type":"text","text":"no"}]},"parent_tool_use_id":"t",` +
		`"uuid":"sub"}`
	failed := `{"type":"assistant","message":{"id":"m8","content":[{"type":"text","text":"API Error"}]},` +
		`"error":"server_error",` +
		`"parent_tool_use_id":null,"uuid":"no"}`
	type want struct{ all, message, block, deltas, last string }
	for name, c := range map[string]struct {
		lines []string
		want
	}{
		"nothing": {nil, want{}},
		"one block": {[]string{started("m1"), delta("a"), delta("b"), said("m1", "u1", "ab"), event(whole), event(stop)},
			want{"ab", "ab", "ab", "ab", "u1"}},
		"a line for each block": {[]string{started("m1"), delta("a"), said("m1", "u1", "a"), delta("b"),
			said("m1", "u2", "b"), event(whole), event(stop)},
			want{"ab", "ab", "b", "ab", "u2"}},
		"several messages": {[]string{started("m1"), delta("a"), said("m1", "u1", "a"), called, event(whole), event(stop),
			result,
			started("m2"), delta("b"), said("m2", "u4", "b"), event(whole), event(stop)}, want{"ab", "b", "b", "ab", "u4"}},
		"a cut one, streamed again": {[]string{started("m1"), delta("a"), event(stop), started("m2"), delta("a"), delta("b"),
			said("m2", "u1", "ab"),
			event(whole), event(stop)}, want{"ab", "ab", "ab", "aab", "u1"}},
		"a cut one of which a block was whole": {[]string{started("m1"), delta("x"), said("m1", "u1", "x"), delta("y"),
			event(stop),
			started("m2"), delta("z"), said("m2", "u2", "z"), event(whole), event(stop)}, want{"z", "z", "z", "xyz", "u2"}},
		"one that isn't streamed": {[]string{started("m1"), delta("a"), event(stop), said("m2", "u1", "ab")},
			want{"ab", "ab", "ab", "a", "u1"}},
		"a subagent's last": {[]string{said("m1", "u1", "a"), called, sub}, want{"a", "a", "a", "", "u2"}},
		"an empty one":      {[]string{started("m1"), event(whole), event(stop), result}, want{"", "", "", "", "u3"}},
		"an error":          {[]string{said("m1", "u1", "a"), failed}, want{"a", "a", "a", "", "u1"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := answerOf(t, c.lines...)
			require.Equal(t, c.want, want{a.All(), a.Message(), a.Block(), a.Deltas(), a.Last()})
		})
	}
}

func TestAnswer_KeepsNoMoreThanItMay(t *testing.T) {
	text := strings.Repeat("x", maxAnswer/2)
	a := &Answer{}
	for range 4 {
		for _, one := range []string{delta(text), said("m1", "u1", text)} {
			line, err := ParseLine([]byte(one))
			require.NoError(t, err)
			a.Add(&line)
		}
	}
	require.LessOrEqual(t, len(a.All())+len(a.Deltas())+len(a.Shown()), maxKept)
	require.Equal(t, "u1", a.Last())
}

func TestLine_TellsWhetherAToolIsCalled(t *testing.T) {
	for text, want := range map[string]bool{
		said("m1", "u1", `{"type":"tool_use"}`): false,
		`{"type":"assistant","message":{"content":[{"type":"text","text":"a"},{"type":"tool_use","name":"Bash"}]}}`: true,
		`{"type":"assistant","message":{"content":"tool_use"}}`:                                                     false,
		`{"type":"user","message":{"content":[{"type":"tool_use"}]}}`:                                               false,
	} {
		line, err := ParseLine([]byte(text))
		require.NoError(t, err)
		require.Equal(t, want, line.CallsTool(), text)
	}
}

func TestAnswer_WhatHasNoTextTakesRoomToo(t *testing.T) {
	a := &Answer{size: maxKept}
	line, err := ParseLine([]byte(`{"type":"assistant","uuid":"` + strings.Repeat("u", 1000) +
		`","message":{"id":"m1","content":[]}}`))
	require.NoError(t, err)
	a.Add(&line)
	require.Empty(t, a.messages)
	require.Empty(t, a.Last(), "that is no uuid")
}
