package pooltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"claudepool/pool/claude"
)

// The programs that tests run.
const (
	Front    = "claudepool/function/cmd/front"
	Poold    = "claudepool/pool/cmd/poold"
	Local    = "claudepool/infra/local"
	scripted = "claudepool/pool/pooltest/scripted"
	attack   = "claudepool/pool/pooltest/attack"
)

// RealCLI returns the path of the pinned CLI: CLAUDE_BIN, or what `make setup` fetched.
func RealCLI() (string, error) {
	if path := os.Getenv("CLAUDE_BIN"); path != "" {
		return path, nil
	}
	tools, err := toolsFolder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(tools, "claude-"+claude.Version, "claude")
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("pooltest: the CLI is missing: make setup")
	}
	return path, nil
}

// ScriptedCLI builds the stand-in for the CLI and returns its path.
func ScriptedCLI() (string, error) {
	dir, err := Build(scripted)
	return filepath.Join(dir, "scripted"), err
}

// AttackTool builds what attacks the isolation of processes from within, and returns its path.
func AttackTool() (string, error) {
	dir, err := Build(attack)
	return filepath.Join(dir, "attack"), err
}

// Build builds programs of this module and returns the folder they are in. The tests of all packages share it, as it
// takes longer to link a program than to run most tests. It may be called by several processes at a time.
func Build(packages ...string) (dir string, err error) { return BuildApart("", ".", packages...) }

// BuildApart is as Build for other sources, or with more flags before the packages. The programs are kept in a folder
// of that name, so that Go links only what isn't up to date there.
func BuildApart(name, sources string, flagsAndPackages ...string) (dir string, err error) {
	tools, err := toolsFolder()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(tools, "test", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("pooltest: %w", err)
	}
	lock, err := os.Create(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("pooltest: %w", err)
	}
	defer lock.Close() // which unlocks it
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("pooltest: %w", err)
	}
	cmd := GoBuild(dir, flagsAndPackages...)
	cmd.Dir = sources
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("pooltest: %w: %s", err, out)
	}
	return dir, nil
}

// GoBuild is the command that builds programs into a folder, with the flags of the images, so that what has been
// compiled for those serves here too. More flags may come first.
func GoBuild(dir string, flagsAndPackages ...string) *exec.Cmd {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + "/"},
		flagsAndPackages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return cmd
}

// toolsFolder is where the module keeps what git ignores.
func toolsFolder() (string, error) {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("pooltest: not inside the module: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(module)), ".tools"), nil
}
