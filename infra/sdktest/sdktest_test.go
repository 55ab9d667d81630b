// Package sdktest has no code of its own: its test runs official SDKs, as they are published, against the service with
// the real CLI. Those of Go are in a module of their own, so that the service's module doesn't need them.
package sdktest_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

// patience is how long one part may take, with the compiling of what hasn't been compiled before.
const patience = 10 * time.Minute

// readBySDKs are the variables from which SDKs take addresses and credentials.
var readBySDKs = regexp.MustCompile(`^(ANTHROPIC|CLAUDE|LANGCHAIN|LANGSMITH|OPENAI)_`)

func TestSDKs(t *testing.T) {
	s := newStage(t)
	t.Run("Go", func(t *testing.T) { s.run(t, "go", need.Program(t, "go"), "test", "-count=1", "./...") })
	t.Run("Node", func(t *testing.T) {
		node, folder := node(t)
		args := append([]string{"--test", "--test-concurrency=1", "--test-timeout=120000"}, s.scripts(t)...)
		s.run(t, folder, node, args...)
	})
	t.Run("README", s.testREADME)
}

// An operator who lets nothing run without approval has users who give it.
func TestSDKs_Channel(t *testing.T) {
	s := newStageOf(t, 2, "PERMISSION_MODE=default")
	node, folder := node(t)
	s.run(t, folder, node, "--test", "--test-force-exit", "--test-timeout=60000", "channel.test.mjs")
}

// run runs tests that are told where the service is, and passes if they do.
func (s *stage) run(t *testing.T, folder, program string, args ...string) {
	t.Helper()
	t.Logf("%s", s.output(t, folder, []string{"SDKTEST_SERVICE=" + s.url, "SDKTEST_SEEN=" + s.seen}, program, args...))
}

// output is what a program says that has to end well.
func (s *stage) output(t *testing.T, folder string, env []string, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = folder
	cmd.Env = append(slices.DeleteFunc(os.Environ(), readBySDKs.MatchString), append(env, "CGO_ENABLED=0")...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\nthe service: %s", out, s.service)
	return string(out)
}

// node returns the Node.js that was fetched with the SDKs, and a folder from which scripts find those.
func node(t *testing.T) (program, folder string) {
	t.Helper()
	fetched, err := filepath.Abs("../../.tools/sdktest")
	require.NoError(t, err)
	need.Part(t, fetched, isFetched(fetched))
	folder = t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS("node")))
	modules := filepath.Join(fetched, "node_modules")
	require.NoError(t, os.Symlink(modules, filepath.Join(folder, "node_modules")))
	return filepath.Join(modules, ".bin", "node"), folder
}

// isFetched reports whether the SDKs that were fetched are those that are asked for.
func isFetched(folder string) error {
	has, err := os.ReadFile(filepath.Join(folder, "package-lock.json"))
	if err != nil {
		return errors.New("the SDKs are missing: make setup")
	}
	wants, err := os.ReadFile("node/package-lock.json")
	if err == nil && !bytes.Equal(has, wants) {
		err = errors.New("the SDKs are others than package-lock.json has: make setup")
	}
	return err
}

// scripts are the files of Node's tests. OpenAI's SDK is for an endpoint of its own.
func (s *stage) scripts(t *testing.T) []string {
	t.Helper()
	scripts := []string{"messages.test.mjs", "tools.test.mjs", "errors.test.mjs", "frameworks.test.mjs"}
	answer, err := http.Post(s.url+"/v1/chat/completions", "application/json", nil)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	if answer.StatusCode != http.StatusNotFound {
		scripts = append(scripts, "openai.test.mjs")
	}
	return scripts
}
