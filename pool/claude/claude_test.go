package claude

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

func TestArgs_NoValueCanBeReadAsAFlag(t *testing.T) {
	args := Args(Options{SessionID: "--help", Model: "--model", FallbackModel: "-p", PermissionMode: "--x", Resume: true})
	for _, value := range []string{"--help", "--model", "-p", "--x", "-r"} {
		require.NotContains(t, args, value)
	}
	require.Contains(t, args, "--resume=--help")
}

func TestEnvironment_InheritsNothing(t *testing.T) {
	t.Setenv("ANTHROPIC_API_KEY", "of-the-operator")
	vars := strings.Join(Environment{Home: "/h", Temp: "/t", BaseURL: "http://127.0.0.1:1", Secret: "cp-1"}.Vars(), "\n")
	require.NotContains(t, vars, "of-the-operator")
	require.Contains(t, vars, "ANTHROPIC_BASE_URL=http://127.0.0.1:1")
}

func TestUserMessage_IsOneLineWhateverTheClientSent(t *testing.T) {
	line := UserMessage("u1", json.RawMessage("[\n {\"type\":\"text\",\n\"text\":\"a\\nb\"}\n]"))
	require.Equal(t, 1, bytes.Count(line, []byte("\n")))
	require.True(t, bytes.HasSuffix(line, []byte("\n")))
	require.Contains(t, string(line), `"content":[{"type":"text","text":"a\nb"}]`)
}

func TestParseLine_ReadsWhatATurnNeeds(t *testing.T) {
	line, err := ParseLine([]byte(`{"duration_ms":1,"type":"result","subtype":"success","is_error":true,"result":"no",` +
		`"user_message_uuid":"u1","user_message_uuids":["u1","u2"]}`))
	require.NoError(t, err)
	require.True(t, line.Public())
	require.True(t, line.Failure())
	require.True(t, line.Answers("u2"))
	require.False(t, line.Answers("u3"))
	require.Equal(t, "no", line.Result)

	line, err = ParseLine([]byte(`{"type":"control_response","response":{"subtype":"error","request_id":"r1",` +
		`"error":"no such model"}}`))
	require.NoError(t, err)
	require.False(t, line.Public())
	require.Equal(t, []string{"error", "r1", "no such model"}, []string{line.Subtype, line.RequestID, line.Error})

	line, err = ParseLine([]byte(`{"event":{"type":"message_stop"},"type":"stream_event"}`))
	require.NoError(t, err)
	require.True(t, line.Public(), "whatever the order")
}

// Lines of this kind come by the thousand: what is garbage of each adds up.
func TestParseLine_ADeltaIsReadWithoutACopy(t *testing.T) {
	raw := []byte(`{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta",` +
		`"text":"word "}},"session_id":"s1","parent_tool_use_id":null,"uuid":"u1"}`)
	var a Answer
	a.deltas.Grow(1 << 20)
	a.shown.text.Grow(1 << 20)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		line, err := ParseLine(raw)
		require.NoError(t, err)
		a.Add(&line)
	}))
	require.True(t, strings.HasPrefix(a.Deltas(), "word word "))
}

func TestParseLine_RefusesWhatIsNoObject(t *testing.T) {
	for _, raw := range []string{"", "null", "[]", `"x"`, "{", `{"type":"result"`, "Segmentation fault"} {
		_, err := ParseLine([]byte(raw))
		require.ErrorIs(t, err, ErrGarbage, raw)
	}
}

func TestReader_TakesLinesApart(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	r := NewReader(strings.NewReader("one\r\n\n  \n" + long + "\nlast"))
	for _, want := range []string{"one", long, "last"} {
		line, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, want, string(line))
	}
	_, err := r.Next()
	require.ErrorIs(t, err, io.EOF)
}

func TestReader_RefusesALineWithoutEnd(t *testing.T) {
	r := NewReader(strings.NewReader(strings.Repeat("x", 100<<10)))
	r.max = 80 << 10
	_, err := r.Next()
	require.ErrorIs(t, err, ErrLineTooLong)
}

func newTranscript(t *testing.T) (Transcript, string) {
	workspace := t.TempDir()
	files, err := os.OpenRoot(workspace)
	require.NoError(t, err)
	t.Cleanup(func() { files.Close() })
	return Transcript{Files: files, Home: "home", Cwd: filepath.Join(workspace, "work"), SessionID: "s1", Owner: -1},
		workspace
}

func TestTranscript_ChainsItsEntriesAndCanBeRemoved(t *testing.T) {
	transcript, workspace := newTranscript(t)
	last, err := transcript.Write([]HistoryMessage{
		{Role: "user", Content: json.RawMessage(`"hello"`)}, {Role: "assistant", Content: json.RawMessage(`"hi"`)},
	}, time.Unix(0, 0))
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(workspace, transcript.path()))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	require.Len(t, lines, 2)
	require.Contains(t, lines[1], `"uuid":"`+last+`"`)
	require.Contains(t, lines[1], `"content":[{"type":"text","text":"hi"}]`)

	_, err = transcript.Write(nil, time.Unix(0, 0))
	require.ErrorIs(t, err, os.ErrExist)
	require.NoError(t, transcript.Remove())
	require.False(t, transcript.Exists())
	require.NoError(t, transcript.Remove(), "removing what is gone is no error")
}

func TestTranscript_BelongsToItsOwnerWithAllThatLeadsToIt(t *testing.T) {
	need.Root(t)
	transcript, workspace := newTranscript(t)
	transcript.Owner = 2_100_000_001
	_, err := transcript.Write(nil, time.Unix(0, 0))
	require.NoError(t, err)
	for path := transcript.path(); path != "."; path = filepath.Dir(path) {
		info, err := os.Stat(filepath.Join(workspace, path))
		require.NoError(t, err)
		require.EqualValues(t, transcript.Owner, info.Sys().(*syscall.Stat_t).Uid, path)
		require.Zero(t, info.Mode()&0o077, path)
	}
}

// What a tenant may have left for the service to fall for, by where it points.
func TestTranscript_FollowsNothingThatATenantPlanted(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "s1.jsonl")
	plant := map[string]func(path string) error{
		"link at the file":          func(path string) error { return os.Symlink(victim, path) },
		"link at the folder":        func(path string) error { return replace(filepath.Dir(path), outside) },
		"link at .claude":           func(path string) error { return replace(filepath.Join(path, "../../.."), outside) },
		"pipe at the file":          func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"folder at the file":        func(path string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o700) },
		"dangling link at the file": func(path string) error { return os.Symlink(filepath.Join(outside, "new"), path) },
	}
	for name, plant := range plant {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
			transcript, workspace := newTranscript(t)
			path := filepath.Join(workspace, transcript.path())
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
			require.NoError(t, plant(path))

			require.False(t, transcript.Exists())
			_, err := transcript.Write([]HistoryMessage{{Role: "user", Content: json.RawMessage(`"x"`)}}, time.Unix(0, 0))
			require.Error(t, err)
			require.NoError(t, transcript.Remove())
			content, err := os.ReadFile(victim)
			require.NoError(t, err)
			require.Equal(t, "precious", string(content))
			require.NoFileExists(t, filepath.Join(outside, "new"))
			_, err = transcript.Write([]HistoryMessage{{Role: "user", Content: json.RawMessage(`"x"`)}}, time.Unix(0, 0))
			require.NoError(t, err, "what was planted is gone")
			require.True(t, transcript.Exists())
		})
	}
}

// replace puts a link in the place of a folder.
func replace(path, target string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("{\"type\":\"result\"}\n\n{\"type\":\"x\""))
	f.Add([]byte("\x00\xff\n{}"))
	f.Fuzz(func(t *testing.T, input []byte) {
		r := NewReader(bytes.NewReader(input))
		total := 0
		for {
			raw, err := r.Next()
			if err != nil {
				require.ErrorIs(t, err, io.EOF)
				break
			}
			require.NotContains(t, string(raw), "\n")
			total += len(raw)
			line, err := ParseLine(raw)
			if err != nil {
				require.ErrorIs(t, err, ErrGarbage)
				continue
			}
			require.True(t, json.Valid(line.Raw))
		}
		require.LessOrEqual(t, total, len(input))
	})
}

// What looks into a line may recurse, and a stack that overflows ends the service.
func TestParseLine_WhatIsNestedTooDeeplyIsGarbage(t *testing.T) {
	nested := func(levels int) []byte {
		return []byte(`{"type":"user","x":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`)
	}
	_, err := ParseLine(nested(maxDepth))
	require.NoError(t, err)
	_, err = ParseLine(nested(maxDepth + 1))
	require.ErrorIs(t, err, ErrGarbage)
	many := []byte(`{"type":"user","text":"` + strings.Repeat(`[\"{`, maxDepth) + `","x":[` +
		strings.Repeat("[],", maxDepth) + `[]]}`)
	_, err = ParseLine(many)
	require.NoError(t, err, "many are not deep, and those in texts don't count")
}
