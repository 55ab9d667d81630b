package pooltest

import (
	"errors"
	"os"
	"path/filepath"

	"claudepool/pool/claude"
)

// RealCLI returns the path of the pinned CLI: CLAUDE_BIN, or what `make setup` fetched.
func RealCLI() (string, error) {
	if path := os.Getenv("CLAUDE_BIN"); path != "" {
		return path, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if parent := filepath.Dir(dir); parent != dir {
			dir = parent
			continue
		}
		return "", errors.New("pooltest: not inside the module")
	}
	path := filepath.Join(dir, ".tools", "claude-"+claude.Version, "claude")
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("pooltest: the CLI is missing: make setup")
	}
	return path, nil
}
