// Package need has tests ask for what a machine may not have. Without it a test is skipped, but fails in continuous
// integration, where CI is "true".
package need

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// Part returns a path if finding it gave no error.
func Part(t testing.TB, path string, err error) string {
	t.Helper()
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	require.NoError(t, err)
	return path
}

// Program returns the path of a program.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	return Part(t, path, err)
}

// Root is for what only root can do, such as switching uids.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Part(t, "", errors.New("only root can do this"))
	}
}
