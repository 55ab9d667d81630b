package testkit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
)

// dyingIn is set where the test binary is to start a process and be killed.
const dyingIn = "TESTKIT_DYING_IN"

func TestMain(m *testing.M) {
	if folder := os.Getenv(dyingIn); folder != "" {
		die(folder)
	}
	os.Exit(m.Run())
}

// die starts a process, says which, and is killed.
func die(folder string) {
	p, err := testkit.Start(folder, nil, "sleep", "600")
	fmt.Println(p.PID(), err)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

func TestAwait_EndsWhenItIsSo(t *testing.T) {
	asked := 0
	require.NoError(t, testkit.Await(t.Context(), "the third time", time.Minute, func() (bool, error) {
		asked++
		if asked == 2 {
			return true, errors.New("which isn't yet")
		}
		return asked > 1, nil
	}))
	require.Equal(t, 3, asked)
}

func TestAwait_TellsWhatWasWrongLast(t *testing.T) {
	wrong := errors.New("still down")
	never := func() (bool, error) { return false, wrong }
	err := testkit.Await(t.Context(), "something", time.Millisecond, never)
	require.ErrorIs(t, err, wrong)
	require.ErrorContains(t, err, "something: not within 1ms")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, testkit.Await(ctx, "something", time.Minute, never), context.Canceled)
}

func TestProcess_HasItsOwnEnvironmentAndLog(t *testing.T) {
	t.Setenv("SECRET", "of this machine")
	p, err := testkit.Start(t.TempDir(), nil, "sh", "-c", "echo \"out $SECRET\"; echo err >&2; exec sleep 600")
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	require.NoError(t, p.Await(t.Context(), "its words", time.Minute, func() (bool, error) {
		return p.Log() == "out \nerr\n", nil
	}))
	require.True(t, p.Runs())
	require.ErrorContains(t, p.Terminate(time.Minute), "terminated")
	require.False(t, p.Runs())
	p.Kill() // does nothing

	_, err = testkit.Start(t.TempDir(), nil, "no-such-program")
	require.ErrorIs(t, err, exec.ErrNotFound)
}

func TestProcess_NobodyWaitsForOneThatHasEnded(t *testing.T) {
	p, err := testkit.Start(t.TempDir(), nil, "sh", "-c", "echo no such file; exit 1")
	require.NoError(t, err)
	err = p.Await(t.Context(), "the service", time.Minute, func() (bool, error) { return false, nil })
	require.ErrorContains(t, err, "the service: it has ended")
	require.ErrorContains(t, err, "no such file")
}

func TestProcess_EndsWithWhoeverStartedIt(t *testing.T) {
	self := exec.Command(os.Args[0])
	self.Env = append(os.Environ(), dyingIn+"="+t.TempDir())
	said, err := self.Output()
	require.ErrorContains(t, err, "killed")
	pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(string(said)), " <nil>"))
	require.NoError(t, err, string(said))
	require.NoError(t, testkit.Await(t.Context(), "its end", 10*time.Second, func() (bool, error) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z "), nil
	}))
}

func TestReport_KeepsWhatStandsBeforeTheResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	byHand := "# Scale\n\nsaid by hand\n\n" + testkit.ReportMark + "\n"
	require.NoError(t, os.WriteFile(path, []byte(byHand+"\nold"), 0o600))
	require.NoError(t, testkit.WriteReport(path, "new\n"))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, byHand+"\nnew\n", string(text))

	require.ErrorIs(t, testkit.WriteReport(filepath.Join(t.TempDir(), "none"), ""), os.ErrNotExist)
	require.NoError(t, os.WriteFile(path, []byte("no mark"), 0o600))
	require.ErrorContains(t, testkit.WriteReport(path, ""), "has no line")
}

func TestOutput_IsUnknownOfWhatFails(t *testing.T) {
	require.Equal(t, "said", testkit.Output("echo", "said"))
	require.Equal(t, "unknown", testkit.Output("false"))
	require.Regexp(t, `^[\d.]+ [\d.]+ [\d.]+$`, testkit.LoadAverages())
}
