package emulator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/need"
)

// endsWithin is how long the emulator may take to end when it is asked to.
const endsWithin = 10 * time.Second

// The emulator is started by the first test that asks for it and stopped by TestMain.
var (
	once    sync.Once
	addr    string
	errAddr error
	folder  string
	running *testkit.Process
)

// tests are a package's, after which the emulator ends.
type tests struct{ goleak.TestingM }

// TestMain runs a package's tests, ends the emulator if one was started, and checks that no goroutine is left behind.
func TestMain(m goleak.TestingM, options ...goleak.Option) {
	goleak.VerifyTestMain(tests{m}, options...)
}

func (m tests) Run() (code int) {
	defer stop()
	return m.TestingM.Run()
}

// Addr returns the address of a running emulator. Where there is none the test is skipped, and fails under CI.
func Addr(t *testing.T) string {
	t.Helper()
	once.Do(func() { errAddr = start() })
	if errors.Is(errAddr, ErrMissing) {
		need.Part(t, "", errAddr)
	}
	require.NoError(t, errAddr)
	return addr
}

func start() (err error) {
	if addr, err = freeport.Addr(); err != nil {
		return err
	}
	if folder, err = os.MkdirTemp("", "emulator-"); err != nil {
		return err
	}
	running, err = Start(context.Background(), folder, addr)
	return err
}

// stop asks it to end, and makes it if it doesn't.
func stop() {
	if running != nil {
		_ = running.Terminate(endsWithin) // 143: it was asked to
		running.Kill()
	}
	if err := os.RemoveAll(folder); err != nil {
		fmt.Fprintln(os.Stderr, "the emulator's folder is left:", err)
	}
}
