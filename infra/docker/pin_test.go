package docker_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/claude"
)

func TestPin_IsTheVersionTheProtocolWasMeasuredOn(t *testing.T) {
	pin, err := os.ReadFile(filepath.Join(repository, "infra/claude.env"))
	require.NoError(t, err)
	require.Contains(t, strings.Split(string(pin), "\n"), "CLAUDE_VERSION="+claude.Version)
}

// TestPin_RefusesAnArchiveOfAnotherHash has an npm that fetches something else.
func TestPin_RefusesAnArchiveOfAnotherHash(t *testing.T) {
	dir := t.TempDir()
	const npm = "#!/bin/sh\nmkdir package && echo evil >package/claude && tar -czf cli.tgz package && echo cli.tgz\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "npm"), []byte(npm), 0o700))
	fetch := exec.Command(filepath.Join(repository, "infra/claude.sh"), filepath.Join(dir, "out"))
	fetch.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	out, err := fetch.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "has the wrong hash")
	require.NoDirExists(t, filepath.Join(dir, "out"))
}
