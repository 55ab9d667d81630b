package pool_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

// transcript is where the CLI keeps what was said in the user's only conversation.
func (s *service) transcript(user string) string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(s.work(user)), "home", ".claude", "projects", "*", "*.jsonl"))
	require.NoError(s.t, err)
	require.Len(s.t, found, 1)
	return found[0]
}

// damages are what may become of a transcript.
var damages = map[string]struct {
	damage func(t *testing.T, path string)
	want   string // what the receipt tells who doesn't say what was said before
	// Of which user the CLI has to be the real one: where it is the CLI that finds the damage, or could write through it.
	real string
}{
	"deleted": {replaced(func(string) error { return nil }), api.ContextLost, ""},
	"no folder": {func(t *testing.T, path string) { require.NoError(t, os.RemoveAll(filepath.Dir(path))) },
		api.ContextLost, ""},
	"a folder": {replaced(func(path string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o700) }),
		api.ContextLost, ""},
	"a fifo": {replaced(func(path string) error { return syscall.Mkfifo(path, 0o600) }), api.ContextLost, "ada"},
	"a link": {replaced(func(path string) error { return os.Symlink("/etc/passwd", path) }), api.ContextLost, "ada"},
	"a file on the way": {func(t *testing.T, path string) {
		projects := filepath.Dir(filepath.Dir(path))
		require.NoError(t, os.RemoveAll(projects))
		require.NoError(t, os.WriteFile(projects, []byte("x"), 0o600))
	}, api.ContextLost, "ada"},
	"a link on the way": {func(t *testing.T, path string) {
		projects := filepath.Dir(filepath.Dir(path))
		require.NoError(t, os.RemoveAll(projects))
		require.NoError(t, os.Symlink("/etc", projects))
	}, api.ContextLost, "ada"},
	"emptied": {rewritten(func([]byte) []byte { return nil }), api.ContextLost, "ada bob"},
	"garbage": {rewritten(func([]byte) []byte { return bytes.Repeat([]byte("no JSON\x00\n"), 1000) }), api.ContextLost,
		"ada bob"},
	"cut": {rewritten(func(text []byte) []byte { return text[:len(text)-100] }), api.ContextResumed, "ada bob"},
	"mixed": {rewritten(func(text []byte) []byte { return append([]byte("{no JSON\n\x00\n"), text...) }),
		api.ContextResumed, "ada bob"},
}

func replaced(with func(path string) error) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		require.NoError(t, os.Remove(path))
		require.NoError(t, with(path))
	}
}

func rewritten(change func(text []byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, change(text), 0o600))
	}
}

// Whoever runs in a workspace can do what they like to its transcript, and disks fail: the conversation goes on with
// what is left of it, and the receipt tells.
func TestPool_NoStateOfATranscriptMakesAConversationUnusable(t *testing.T) {
	t.Parallel()
	requests := map[string]func(text string) fields{
		"ada": func(string) fields { return nil },
		"bob": func(text string) fields { // who tells what was said before
			return fields{"messages": []fields{user("one"), assistant("reply to: one"), user(text)}}
		},
	}
	for name, c := range damages {
		for who, request := range requests {
			t.Run(name+", "+who, func(t *testing.T) {
				t.Parallel()
				start := newScriptedService
				if strings.Contains(c.real, who) {
					start = newService
				}
				s := start(t, nil)
				s.ask(who, "one", nil).text(t)
				s.reap()
				c.damage(t, s.transcript(who))
				s.goesOn(t, who, request("two"), c.want)
				passwords, err := os.ReadFile("/etc/passwd")
				require.NoError(t, err)
				require.NotContains(t, string(passwords), "reply to")
			})
		}
	}
}

// goesOn has the user go on by a request that says "two", of which the receipt is to tell this unless it tells what was
// said before, and once more.
func (s *service) goesOn(t *testing.T, who string, request fields, context string) {
	t.Helper()
	said := []string{"user: one", "assistant: reply to: one"}
	switch {
	case context == api.ContextLost && request != nil:
		context = api.ContextSeeded
	case context == api.ContextLost:
		said = nil
	}
	two := s.ask(who, "two", request)
	require.Equal(t, "reply to: two", two.text(t))
	require.Equal(t, context, two.receipt().Get("context").Str)
	said = append(said, "user: two")
	require.Equal(t, said, s.lastCall().Messages())
	s.reap()
	three := s.ask(who, "three", nil)
	require.Equal(t, "reply to: three", three.text(t))
	require.Equal(t, append(said, "assistant: reply to: two", "user: three"), s.lastCall().Messages())
}
