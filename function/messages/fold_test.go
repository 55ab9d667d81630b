package messages

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/grammar"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/pooltest/turns"
)

// folded is a turn's stream, or nothing but its error.
func folded(asked *Asked, lines []string) (stream string, whole []byte, failure *api.Error) {
	var out strings.Builder
	collected := NewCollector(1 << 20)
	f := NewFold(asked, "msg_own", func(name string, data []byte) {
		fmt.Fprintf(&out, "event: %s\ndata: %s\n\n", name, data)
		collected.Take(name, data)
	})
	for _, l := range lines {
		f.Take([]byte(l))
	}
	if failure = f.End(); failure != nil {
		out.Write(Frames{}.Event(nil, "error", api.Envelope("req_1", failure)))
		return out.String(), nil, failure
	}
	return out.String(), collected.Message(), nil
}

func TestFold_FiveHundredRandomTurnsObeyTheGrammar(t *testing.T) {
	voids, repeats, failures := 0, 0, 0
	for seed := range uint64(500) {
		turn := turns.Random(seed)
		told := func() string { return fmt.Sprintf("seed %d:\n%s", seed, strings.Join(turn.Lines, "\n")) }
		stream, whole, failure := folded(&Asked{Model: "haiku"}, turn.Lines)
		g, err := grammar.Check([]byte(stream))
		require.NoError(t, err, "%s\n%s", told(), stream)
		require.Equal(t, turn.Failure, failure != nil, told())
		if failure != nil {
			failures++
			require.True(t, g.Failed.Exists())
			continue
		}
		content := g.Content()
		require.Equal(t, turn.Texts, grammar.Said(content, "text", "text"), "%s\n%s", told(), stream)
		require.Equal(t, turn.Thoughts, grammar.Said(content, "thinking", "thinking"), told())
		require.Equal(t, strings.Join(turn.Tools, ""), grammar.Said(content, "mcp_tool_use", "id"), told())
		require.EqualValues(t, turn.Input, g.Last.Get("usage.input_tokens").Int(), told())
		require.EqualValues(t, turn.Output, g.Last.Get("usage.output_tokens").Int(), told())
		require.Equal(t, content, contentOf(t, whole), told())
		if len(g.Blocks) > len(content) {
			voids++
		} else if strings.Contains(told(), "api_retry") {
			repeats++
		}
	}
	t.Logf("%d turns with void blocks, %d in which all that was repeated went on, %d failed", voids, repeats, failures)
	for _, n := range []int{voids, repeats, failures} {
		require.Greater(t, n, 20)
	}
}

// contentOf are the blocks of a message that wasn't streamed.
func contentOf(t *testing.T, message []byte) []grammar.Block {
	t.Helper()
	m, err := grammar.Whole(message)
	require.NoError(t, err)
	return m.Content()
}

func TestFold_WhatStandsInTheMessageItself(t *testing.T) {
	turn := turns.New(1)
	turn.Answer("end_turn")
	turn.Lines = append(turn.Lines, `{"type":"result","subtype":"success","is_error":false}`)
	_, whole, failure := folded(&Asked{Model: "haiku"}, turn.Lines)
	require.Nil(t, failure)
	m := gjson.ParseBytes(whole)
	require.Equal(t, "message", m.Get("type").Str)
	require.Equal(t, "assistant", m.Get("role").Str)
	require.Equal(t, "end_turn", m.Get("stop_reason").Str)
	require.Equal(t, "claude-haiku-5-5", m.Get("model").Str)
	require.True(t, m.Get("stop_sequence").Exists())
	require.EqualValues(t, turn.Output, m.Get("usage.output_tokens").Int())
}

func TestFold_ATurnWithoutAWordIsAMessageAllTheSame(t *testing.T) {
	stream, whole, failure := folded(&Asked{Model: "haiku"},
		[]string{`{"type":"result","subtype":"success","is_error":false,"result":""}`})
	require.Nil(t, failure)
	_, err := grammar.Check([]byte(stream))
	require.NoError(t, err)
	require.Equal(t, "[]", gjson.GetBytes(whole, "content").Raw)
	require.Equal(t, "msg_own", gjson.GetBytes(whole, "id").Str)
	require.Equal(t, "haiku", gjson.GetBytes(whole, "model").Str)
}

func TestFold_AnErrorThatIsNullIsNone(t *testing.T) {
	_, message, _ := folded(&Asked{Model: "haiku"}, []string{
		`{"type":"assistant","error":null,"message":{"id":"m","content":[{"type":"text","text":"a"}]},` +
			`"parent_tool_use_id":null}`,
		`{"type":"result","subtype":"success","is_error":false}`})
	require.Equal(t, "a", gjson.GetBytes(message, "content.0.text").Str)
}

// A whole answer is void, and so is what its tool says later.
func TestFold_AVoidCallGetsNoResult(t *testing.T) {
	stream, whole, _ := folded(&Asked{Model: "haiku"}, []string{
		`{"type":"stream_event","event":{"type":"message_start","message":{"id":"msg_1"}}}`,
		`{"type":"stream_event","event":{"type":"content_block_start","index":0,"content_block":{"type":"tool_use",` +
			`"id":"toolu_1"}}}`,
		`{"type":"assistant","message":{"id":"msg_1","content":[{"type":"tool_use","id":"toolu_1","name":"Bash","input":{}` +
			`}]}}`,
		`{"type":"stream_event","event":{"type":"content_block_stop","index":0}}`,
		`{"type":"stream_event","event":{"type":"message_stop"}}`,
		`{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"x"}]}}`,
		`{"type":"result","subtype":"success","is_error":false}`})
	g, err := grammar.Check([]byte(stream))
	require.NoError(t, err, stream)
	require.Len(t, g.Blocks, 1)
	require.Empty(t, contentOf(t, whole))
}

func TestFold_HiddenToolsLeaveOnlyWhatTheAssistantSays(t *testing.T) {
	for seed := range uint64(200) {
		turn := turns.Random(seed)
		stream, _, failure := folded(&Asked{Model: "haiku", HideTools: true}, turn.Lines)
		g, err := grammar.Check([]byte(stream))
		require.NoError(t, err, stream)
		require.NotContains(t, stream, "mcp_tool")
		if failure == nil {
			require.Equal(t, turn.Texts, grammar.Said(g.Content(), "text", "text"), strings.Join(turn.Lines, "\n"))
		}
	}
}

// By all the texts of a stream its conversation is found: the instance takes the same for what clients have seen.
func TestFold_HiddenToolsChangeNothingOfWhatIsSaid(t *testing.T) {
	for seed := range uint64(1000) {
		turn := turns.Random(seed)
		texts := func(hide bool) (all string) {
			f := NewFold(&Asked{HideTools: hide}, "", func(_ string, data []byte) {
				all += gjson.GetBytes(data, "delta.text").Str
			})
			for _, l := range turn.Lines {
				f.Take([]byte(l))
			}
			_ = f.End()
			return all
		}
		require.Equal(t, texts(false), texts(true), "seed %d:\n%s", seed, strings.Join(turn.Lines, "\n"))
		var answer claude.Answer
		for _, l := range turn.Lines {
			line, err := claude.ParseLine([]byte(l))
			require.NoError(t, err)
			answer.Add(&line)
		}
		require.Equal(t, texts(true), answer.Shown(), "seed %d:\n%s", seed, strings.Join(turn.Lines, "\n"))
	}
}

func TestFold_WhatDifferentAnswersSayIsPartedForWhoSeesNoBlocks(t *testing.T) {
	parted := 0
	for seed := range uint64(500) {
		turn := turns.Random(seed)
		plain, whole, failure := folded(&Asked{}, turn.Lines)
		if failure != nil {
			continue
		}
		stream, paragraphs, _ := folded(&Asked{Paragraphs: true}, turn.Lines)
		_, err := grammar.Check([]byte(stream))
		require.NoError(t, err)
		const blank = `"delta":{"type":"text_delta","text":"\n\n"}}`
		if strings.Contains(stream, blank) {
			parted++
		} else {
			require.Equal(t, plain, stream)
		}
		text := grammar.Said(contentOf(t, paragraphs), "text", "text")
		require.False(t, strings.HasPrefix(text, "\n"), "seed %d: %q", seed, text)
		fields := strings.Join(strings.Fields(grammar.Said(contentOf(t, whole), "text", "text")), "")
		require.Equal(t, fields, strings.Join(strings.Fields(text), ""), "seed %d", seed)
	}
	require.Greater(t, parted, 100)
}

func TestFold_TheReceiptHasTheUsage(t *testing.T) {
	turn := turns.New(2)
	turn.Answer("end_turn")
	var last string
	f := NewFold(&Asked{}, "", func(_ string, data []byte) { last += string(data) })
	for _, l := range append(turn.Lines, `{"type":"result","subtype":"success","is_error":false}`) {
		f.Take([]byte(l))
	}
	f.Total(&api.Usage{InputTokens: 1, OutputTokens: 2, CacheReadTokens: 3, CacheCreationTokens: 4})
	require.Nil(t, f.End())
	require.Contains(t, last, `"usage":{"input_tokens":1,"cache_creation_input_tokens":4,"cache_read_input_tokens":3,`+
		`"output_tokens":2}`)
}

func TestFold_FailuresHaveTheMessagesAPIsStatusAndType(t *testing.T) {
	for name, want := range map[string]struct {
		line   string
		status int
		kind   string
		says   string
	}{
		"rate limit": {`{"type":"result","subtype":"success","is_error":true,"api_error_status":429,"result":"limit"}`,
			429, "rate_limit_error", "limit"},
		"overloaded": {`{"type":"result","subtype":"success","is_error":true,"api_error_status":529,"result":"o"}`, 529,
			"overloaded_error", "o"},
		"credential": {`{"type":"result","subtype":"success","is_error":true,"api_error_status":401,"result":"c"}`, 401,
			"authentication_error", "c"},
		"too long": {`{"type":"result","subtype":"success","is_error":true,"terminal_reason":"prompt_too_long","result":"p"}`,
			400, "invalid_request_error", "p"},
		"unknown 4xx": {`{"type":"result","subtype":"success","is_error":true,"api_error_status":418,"result":"t"}`, 418,
			"invalid_request_error", "t"},
		"odd status": {`{"type":"result","subtype":"success","is_error":true,"api_error_status":200,"result":"t"}`, 500,
			"api_error", "t"},
		"execution": {`{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["e"]}`, 500,
			"api_error", "e"},
		"aborted": {`{"type":"result","subtype":"success","is_error":false,"terminal_reason":"aborted_streaming",` +
			`"result":"half"}`, 500, "api_error", "half"},
		"of the pool": {`{"type":"error","error":{"type":"overloaded_error","message":"m"}}`, 529, "overloaded_error", "m"},
		"budget": {`{"type":"error","error":{"type":"billing_error","message":"m","details":{"error_code":"c"}}}`, 402,
			"billing_error", "m"},
		"unknown error": {`{"type":"error","error":{"type":"odd","message":"m"}}`, 500, "api_error", "m"},
		"no result":     {`{"type":"system","subtype":"init"}`, 502, "api_error", "the turn ended without a result"},
	} {
		_, _, failure := folded(&Asked{}, []string{want.line})
		require.NotNil(t, failure, name)
		require.Equal(t, want.status, failure.Status, name)
		require.Equal(t, want.kind, failure.Type, name)
		require.Equal(t, want.says, failure.Message, name)
		require.Equal(t, name == "budget", failure.Code == "c", name)
	}
}

// The files are what a CLI wrote in a turn; beside each is the stream that it has to become.
func TestFold_GoldenStreams(t *testing.T) {
	files, err := filepath.Glob("testdata/*.lines")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		lines, err := os.ReadFile(file)
		require.NoError(t, err)
		stream, _, _ := folded(&Asked{Model: "haiku"}, strings.Split(strings.TrimSpace(string(lines)), "\n"))
		_, err = grammar.Check([]byte(stream))
		require.NoError(t, err, file)
		golden := strings.TrimSuffix(file, ".lines") + ".stream"
		if os.Getenv("UPDATE_GOLDEN") != "" {
			require.NoError(t, os.WriteFile(golden, []byte(stream), 0o600))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		require.Equal(t, string(want), stream, file)
	}
}

// A checker that lets anything pass proves nothing.
func TestGrammar_RefusesStreamsThatAClientCannotRead(t *testing.T) {
	var good string
	for seed := uint64(0); strings.Count(good, "mcp_tool_result") == 0 || !strings.Contains(good, "message_stop"); seed++ {
		good, _, _ = folded(&Asked{Model: "haiku"}, turns.Random(seed).Lines)
	}
	_, err := grammar.Check([]byte(good))
	require.NoError(t, err)
	frames := strings.SplitAfter(good, "\n\n")
	frames = frames[:len(frames)-1]
	join := func(f []string) string { return strings.Join(f, "") }
	for i, frame := range frames {
		without := append(append([]string{}, frames[:i]...), frames[i+1:]...)
		if strings.Contains(frame, "content_block_delta") {
			continue // which may be missing, or come twice
		}
		_, err := grammar.Check([]byte(join(without)))
		require.Error(t, err, "without %s", frame)
		twice := append(append(append([]string{}, frames[:i+1]...), frame), frames[i+1:]...)
		_, err = grammar.Check([]byte(join(twice)))
		require.Error(t, err, "twice %s", frame)
	}
	for name, mutant := range map[string]string{
		"no event line":   strings.Replace(good, "event: message_stop\n", "", 1),
		"another event":   strings.Replace(good, "event: message_stop\n", "event: done\n", 1),
		"a hole":          strings.ReplaceAll(good, `"index":1`, `"index":2`),
		"one end more":    good + frames[len(frames)-1],
		"an error behind": string(Frames{}.Event([]byte(good), "error", api.Envelope("", api.Invalid("x")))),
		"tool_use":        strings.ReplaceAll(good, `"stop_reason":"end_turn"`, `"stop_reason":"tool_use"`),
		"no JSON":         strings.Replace(good, `{"type":"message_stop"}`, `{"type":"message_stop"`, 1),
		"an unknown void": strings.Replace(good, `"usage":{"input_tokens"`,
			`"claudepool_void":[99],"usage":{"input_tokens"`, 2),
		"a call without input": strings.Replace(good, `"input":{`, `"other":{`, 1),
		"cut":                  good[:len(good)-1],
	} {
		_, err := grammar.Check([]byte(mutant))
		require.Error(t, err, name)
	}
}

func TestCollector_SaysWhenThereIsTooMuch(t *testing.T) {
	c := NewCollector(10)
	c.Take("message_start", []byte(`{"message":{}}`))
	require.True(t, c.Full())
}

func FuzzFold(f *testing.F) {
	f.Add([]byte(strings.Join(turns.Random(1).Lines, "\n")))
	f.Fuzz(func(t *testing.T, input []byte) {
		lines := strings.Split(string(input), "\n")
		for _, l := range lines {
			if !json.Valid([]byte(l)) {
				return
			}
		}
		folded(&Asked{Model: "haiku"}, lines)
	})
}
