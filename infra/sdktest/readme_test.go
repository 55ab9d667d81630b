package sdktest_test

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

// inGo is what the README's lines in Go stand in.
const inGo = `package main

import (
	"context"
	"fmt"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

func main() {
	if err := run(context.Background()); err != nil {
		panic(err)
	}
}

func run(ctx context.Context) error {
LINES
	return nil
}
`

// testREADME runs what the README begins with as it stands there, but for the address.
func (s *stage) testREADME(t *testing.T) {
	t.Run("curl", func(t *testing.T) {
		said := s.output(t, t.TempDir(), key("curl"), need.Program(t, "sh"), "-c", s.lines(t, "sh"))
		require.Contains(t, said, "event: message_stop")
	})
	t.Run("Python", func(t *testing.T) {
		python, script := need.Program(t, cmp.Or(os.Getenv("PYTHON"), "python3")), s.lines(t, "python")
		s.output(t, t.TempDir(), nil, python, "-c", "import ast, sys; ast.parse(sys.argv[1])", script)
		if exec.Command(python, "-c", "import anthropic").Run() != nil {
			t.Skip("its syntax is right; Anthropic's SDK for Python isn't installed: see make python")
		}
		require.Contains(t, s.output(t, t.TempDir(), key("python"), python, "-c", script), "reply to: Hello")
	})
	t.Run("TypeScript", func(t *testing.T) {
		node, folder := node(t)
		write(t, filepath.Join(folder, "readme.ts"), s.lines(t, "ts"))
		said := s.output(t, folder, key("typescript"), node, "readme.ts")
		require.Contains(t, said, "reply to: Hello")
		require.Contains(t, said, "output_tokens")
	})
	t.Run("Go", func(t *testing.T) {
		folder := t.TempDir()
		for _, name := range []string{"go.mod", "go.sum"} {
			text, err := os.ReadFile(filepath.Join("go", name))
			require.NoError(t, err)
			write(t, filepath.Join(folder, name), string(text))
		}
		write(t, filepath.Join(folder, "main.go"), strings.Replace(inGo, "LINES", s.lines(t, "go"), 1))
		require.Contains(t, s.output(t, folder, key("go"), need.Program(t, "go"), "run", "."), "reply to: Hello")
	})
}

// key is the credential of a user, where SDKs look for it.
func key(name string) []string { return []string{"ANTHROPIC_API_KEY=sk-ant-api03-readme-" + name} }

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// lines are the README's first in a language, with the address of this service.
func (s *stage) lines(t *testing.T, language string) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)\n```" + language + "\n(.*?)\n```\n").FindSubmatch(readme)
	require.NotNil(t, found, "the README has nothing in %s", language)
	const address = "http://127.0.0.1:8080"
	require.Contains(t, string(found[1]), address)
	require.LessOrEqual(t, strings.Count(string(found[1]), "\n"), 10)
	return strings.ReplaceAll(string(found[1]), address, s.url)
}
