package pool_test

import (
	"bytes"
	"os"
	"path/filepath"
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

// Whoever runs in a workspace can do what they like to its transcript, and disks fail: the conversation goes on with what is
// left of it, and the receipt tells.
func TestPool_NoStateOfATranscriptMakesAConversationUnusable(t *testing.T) {
	t.Parallel()
	replace := func(with func(path string) error) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, with(path))
		}
	}
	rewrite := func(change func(text []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, change(text), 0o600))
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, path string)
		want   string // what the receipt tells who doesn't say what was said before
	}{
		"deleted":   {replace(func(string) error { return nil }), api.ContextLost},
		"emptied":   {rewrite(func([]byte) []byte { return nil }), api.ContextLost},
		"a folder":  {replace(func(path string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o700) }), api.ContextLost},
		"a fifo":    {replace(func(path string) error { return syscall.Mkfifo(path, 0o600) }), api.ContextLost},
		"a link":    {replace(func(path string) error { return os.Symlink("/etc/passwd", path) }), api.ContextLost},
		"garbage":   {rewrite(func(text []byte) []byte { return bytes.Repeat([]byte("no JSON\x00\n"), 1000) }), api.ContextLost},
		"cut":       {rewrite(func(text []byte) []byte { return text[:len(text)-100] }), api.ContextResumed},
		"mixed":     {rewrite(func(text []byte) []byte { return append([]byte("{no JSON\n\x00\n"), text...) }), api.ContextResumed},
		"no folder": {func(t *testing.T, path string) { require.NoError(t, os.RemoveAll(filepath.Dir(path))) }, api.ContextLost},
		"a file on the way": {func(t *testing.T, path string) {
			projects := filepath.Dir(filepath.Dir(path))
			require.NoError(t, os.RemoveAll(projects))
			require.NoError(t, os.WriteFile(projects, []byte("x"), 0o600))
		}, api.ContextLost},
		"a link on the way": {func(t *testing.T, path string) {
			projects := filepath.Dir(filepath.Dir(path))
			require.NoError(t, os.RemoveAll(projects))
			require.NoError(t, os.Symlink("/etc", projects))
		}, api.ContextLost},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, nil)
			requests := map[string]func(text string) fields{
				"ada": func(string) fields { return nil },
				"bob": func(text string) fields { // who tells what was said before
					return fields{"messages": []fields{{"role": "user", "content": "one"}, {"role": "assistant", "content": "reply to: one"},
						{"role": "user", "content": text}}}
				},
			}
			for user := range requests {
				s.ask(user, "one", nil).text(t)
			}
			s.reap()
			for user, request := range requests {
				c.damage(t, s.transcript(user))
				want := []string{"user: one", "assistant: reply to: one"}
				how := c.want
				switch {
				case c.want == api.ContextLost && user == "bob":
					how = api.ContextSeeded
				case c.want == api.ContextLost:
					want = nil
				}
				two := s.ask(user, "two", request("two"))
				require.Equal(t, "reply to: two", two.text(t), user)
				require.Equal(t, how, two.receipt().Get("context").Str, user)
				want = append(want, "user: two")
				require.Equal(t, want, s.lastCall().Messages(), user)
				s.reap()
				three := s.ask(user, "three", nil)
				require.Equal(t, "reply to: three", three.text(t), user)
				require.Equal(t, append(want, "assistant: reply to: two", "user: three"), s.lastCall().Messages(), user)
			}
			passwords, err := os.ReadFile("/etc/passwd")
			require.NoError(t, err)
			require.NotContains(t, string(passwords), "reply to")
		})
	}
}
