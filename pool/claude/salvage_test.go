package claude

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Entries of a transcript.
const (
	question = `{"type":"user","uuid":"u1","message":{"role":"user","content":"one"}}`
	reply    = `{"type":"assistant","uuid":"u2","message":{"role":"assistant","content":[{"type":"text",` +
		`"text":"first"}]}}`
	bookkept = `{"type":"last-prompt","sessionId":"s1"}`
	again    = `{"type":"user","uuid":"u3","message":{"role":"user","content":[{"type":"text","text":"two"}]}}`
	reply2   = `{"type":"assistant","uuid":"u4","message":{"role":"assistant","content":[{"type":"text",` +
		`"text":"second"}]}}`
	subagents = `{"type":"assistant","uuid":"u5","isSidechain":true,"message":{"role":"assistant",` +
		`"content":[{"type":"text","text":"no"}]}}`
	apiError = `{"type":"assistant","uuid":"u6","isApiErrorMessage":true,"message":{"role":"assistant",` +
		`"content":[{"type":"text","text":"no"}]}}`
	boundary = `{"type":"system","subtype":"compact_boundary","uuid":"u7"}`
	summary  = `{"type":"user","uuid":"u8","isCompactSummary":true,"message":{"role":"user","content":"a summary"}}`
	reminder = `{"type":"user","uuid":"u9","message":{"role":"user","content":[{"type":"text",` +
		`"text":"<system-reminder>no"}]}}`
	meta       = `{"type":"user","uuid":"u10","isMeta":true,"message":{"role":"user","content":"no"}}`
	toolResult = `{"type":"user","uuid":"u11","message":{"role":"user","content":[{"type":"tool_result","content":"no"}]}}`
)

// written is a transcript of these lines.
func written(t *testing.T, text string) (Transcript, string) {
	t.Helper()
	transcript, workspace := newTranscript(t)
	path := filepath.Join(workspace, transcript.path())
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return transcript, path
}

func lines(all ...string) string { return strings.Join(all, "\n") + "\n" }

func TestTranscript_IsCutBehindTheLastGoodEntry(t *testing.T) {
	for name, c := range map[string]struct{ text, mark, want string }{
		"at the mark": {lines(question, reply, again, reply2), "u2", lines(question, reply)},
		"the last of that uuid": {lines(question, reply, boundary, reply, again), "u2",
			lines(question, reply, boundary, reply)},
		"before a boundary": {lines(question, reply, again, boundary, summary, reply2), "u2", lines(question, reply)},
		"a mark that isn't there": {lines(question, reply, bookkept, again, subagents, apiError), "gone",
			lines(question, reply)},
		"no mark":      {lines(question, reply, again), "", lines(question, reply)},
		"nothing good": {lines(question, apiError), "gone", ""},
		"half a line":  {lines(question, reply) + again[:20], "u2", lines(question, reply)},
		"garbage before": {"\x00garbage\n{\n" + lines(question, reply, again), "u2", "\x00garbage\n{\n" +
			lines(question, reply)},
		"long lines": {lines(strings.Repeat("x", 1<<20), question, reply, again), "u2",
			lines(strings.Repeat("x", 1<<20), question, reply)},
	} {
		t.Run(name, func(t *testing.T) {
			transcript, path := written(t, c.text)
			require.NoError(t, transcript.Cut(c.mark))
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, c.want == string(got), "%.200s", got)
		})
	}
}

func TestTranscript_WhatIsNoneIsCutToNothing(t *testing.T) {
	transcript, path := written(t, "")
	for name, plant := range map[string]func() error{
		"nothing": func() error { return nil },
		"folder":  func() error { return os.MkdirAll(filepath.Join(path, "full"), 0o700) },
		"link":    func() error { return os.Symlink("/etc/passwd", path) },
	} {
		require.NoError(t, os.RemoveAll(path))
		require.NoError(t, plant(), name)
		require.NoError(t, transcript.Cut("u1"), name)
		require.False(t, transcript.Exists(), name)
		_, err := os.Lstat(path)
		require.ErrorIs(t, err, os.ErrNotExist, name)
	}
}

func TestTranscript_TellsWhatWasSaid(t *testing.T) {
	type said [][2]string
	for name, c := range map[string]struct {
		text string
		want said
	}{
		"two turns": {lines(question, reply, bookkept, again, reply2), said{{"user", "one"}, {"assistant", "first"},
			{"user", "two"}, {"assistant", "second"}}},
		"what nobody said": {lines(question, meta, reminder, subagents, toolResult, apiError, reply),
			said{{"user", "one"}, {"assistant", "first"}}},
		"behind a summary": {lines(question, reply, boundary, summary, again, reply2),
			said{{"user", "a summary"}, {"user", "two"}, {"assistant", "second"}}},
		"a rewound turn": {lines(question, reply, again, reply2,
			`{"type":"user","uuid":"u12","parentUuid":"u2","message":{"content":"three"}}`),
			said{{"user", "one"}, {"assistant", "first"}, {"user", "three"}}},
		"garbage": {"{\n\x00\n[1]\n" + lines(question) + reply[:50], said{{"user", "one"}}},
		"nothing": {"", nil},
		"content that is no one": {lines(`{"type":"user","uuid":"u1","message":{"content":7}}`,
			`{"type":"user","uuid":"u2","message":null}`), nil},
	} {
		t.Run(name, func(t *testing.T) {
			transcript, _ := written(t, c.text)
			messages, err := transcript.Texts(1 << 20)
			require.NoError(t, err)
			var got said
			for _, m := range messages {
				var text string
				require.NoError(t, json.Unmarshal(m.Content, &text))
				got = append(got, [2]string{m.Role, text})
			}
			require.Equal(t, c.want, got)
		})
	}
	transcript, _ := written(t, lines(question))
	_, err := transcript.Texts(10)
	require.ErrorIs(t, err, ErrTooLarge)
}

// Whoever runs in a workspace can write to its transcript: what is nested too deeply for a parser that recurses isn't
// read.
func TestTexts_WhatIsNestedTooDeeplyIsLeftOut(t *testing.T) {
	line := func(uuid, more string) string {
		return `{"uuid":"` + uuid + `","type":"user","message":{"content":"` + uuid + `"},"a":` + more + "}\n"
	}
	deep := strings.Repeat("[", 2*maxDepth) + strings.Repeat("]", 2*maxDepth)
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	transcript := Transcript{Files: root, Home: "home", Cwd: "/w", SessionID: "s", Owner: -1}
	require.NoError(t, transcript.Restore([]byte(line("one", "1")+line("two", deep)+line("three", "[]"))))
	texts, err := transcript.Texts(1 << 20)
	require.NoError(t, err)
	require.Len(t, texts, 2)
}
