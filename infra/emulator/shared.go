package emulator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"claudepool/infra/freeport"
	"claudepool/infra/need"
)

// The emulator is started by the first test that asks for it and stopped by TestMain.
var (
	once    sync.Once
	addr    string
	errAddr error
	running *exec.Cmd
)

// TestMain runs a package's tests, checks that they leave no goroutine behind, and ends the emulator if one was started.
func TestMain(m *testing.M, options ...goleak.Option) {
	ignore := goleak.IgnoreTopFunction("claudepool/infra/emulator.waitForever")
	goleak.VerifyTestMain(m, append(options, ignore, goleak.Cleanup(func(code int) {
		if err := stopEmulator(); err != nil {
			fmt.Fprintln(os.Stderr, "the emulator did not stop:", err)
			code = 1
		}
		os.Exit(code)
	}))...)
}

// Addr returns the address of a running emulator. Where there is none the test is skipped, and fails under CI.
func Addr(t *testing.T) string {
	t.Helper()
	once.Do(func() { addr, errAddr = startEmulator() })
	if errors.Is(errAddr, ErrMissing) {
		need.Part(t, "", errAddr)
	}
	require.NoError(t, errAddr)
	return addr
}

func startEmulator() (string, error) {
	port, err := freeport.Port()
	if err != nil {
		return "", err
	}
	command, err := Command(port)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(command[0], command[1:]...) // #nosec G204 -- for tests
	if err := start(cmd); err != nil {
		return "", err
	}
	running = cmd
	addr := "127.0.0.1:" + port
	return addr, Ready(context.Background(), addr)
}

// start keeps the thread that forks for good: the kernel kills the child when that thread ends, and so also when the
// test binary does without having come to its cleanup.
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		waitForever()
	}()
	return <-started
}

// waitForever is a function of its own so that the leak check can tell the goroutine it holds.
func waitForever() { select {} }

// stopEmulator asks it to end, and makes it after a while.
func stopEmulator() error {
	if running == nil {
		return nil
	}
	if err := running.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	kill := time.AfterFunc(10*time.Second, func() { _ = running.Process.Kill() })
	defer kill.Stop()
	_ = running.Wait() // 143: it was asked to
	return nil
}
