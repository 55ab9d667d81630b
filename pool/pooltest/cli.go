package pooltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"claudepool/pool/claude"
)

// RealCLI returns the path of the pinned CLI: CLAUDE_BIN, or what `make setup` fetched.
func RealCLI() (string, error) {
	if path := os.Getenv("CLAUDE_BIN"); path != "" {
		return path, nil
	}
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("pooltest: not inside the module: %w", err)
	}
	path := filepath.Join(strings.TrimSpace(string(module)), ".tools", "claude-"+claude.Version, "claude")
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("pooltest: the CLI is missing: make setup")
	}
	return path, nil
}

// ScriptedCLI builds the stand-in for the CLI into dir and returns its path.
func ScriptedCLI(dir string) (string, error) {
	path := filepath.Join(dir, "scripted")
	if out, err := exec.Command("go", "build", "-o", path, "claudepool/pool/pooltest/scripted").CombinedOutput(); err != nil {
		return "", fmt.Errorf("pooltest: %w: %s", err, out)
	}
	return path, nil
}
