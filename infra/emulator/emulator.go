// Package emulator runs the Firestore emulator for tests.
package emulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"claudepool/infra/database"
	"claudepool/infra/freeport"
)

const jar = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"

// errMissing says that this machine has no emulator.
var errMissing = errors.New("the Firestore emulator or java is not installed")

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
	if errors.Is(errAddr, errMissing) && os.Getenv("CI") != "true" {
		t.Skip(errAddr)
	}
	require.NoError(t, errAddr)
	return addr
}

func startEmulator() (string, error) {
	path, err := findJar()
	if err != nil {
		return "", err
	}
	port, err := freeport.Port()
	if err != nil {
		return "", err
	}
	const class = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
	cmd := exec.Command("java", "-cp", path, class, "--host=127.0.0.1", "--port="+port) // #nosec G204 -- for tests
	if err := start(cmd); err != nil {
		return "", err
	}
	running = cmd
	addr := "127.0.0.1:" + port
	if err := waitOk("http://" + addr + "/"); err != nil {
		return "", err
	}
	return addr, warmUp(addr)
}

// warmUp makes the emulator answer once, which on a busy machine takes longer than a test's calls may.
func warmUp(addr string) error {
	before, was := os.LookupEnv(database.EmulatorHost)
	defer func() {
		_ = os.Unsetenv(database.EmulatorHost)
		if was {
			_ = os.Setenv(database.EmulatorHost, before)
		}
	}()
	if err := os.Setenv(database.EmulatorHost, addr); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client, err := database.Connect(ctx, "warm-up", "(default)")
	if err != nil {
		return err
	}
	defer client.Close()
	doc := client.Collection("warm-up").Doc("one")
	if _, err := doc.Set(ctx, map[string]any{"at": time.Now()}); err != nil {
		return err
	}
	_, err = client.Collection("warm-up").Where("at", ">", time.Time{}).Documents(ctx).GetAll()
	return err
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

func findJar() (string, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", errMissing
	}
	roots := []string{"/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk", "/opt/google-cloud-sdk"}
	if gcloud, err := exec.LookPath("gcloud"); err == nil {
		if real, err := filepath.EvalSymlinks(gcloud); err == nil {
			roots = append(roots, filepath.Dir(filepath.Dir(real)))
		}
	}
	for _, root := range roots {
		if path := filepath.Join(root, jar); exists(path) {
			return path, nil
		}
	}
	return "", errMissing
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// waitOk waits until the emulator says that it is ready.
func waitOk(url string) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		answer, err := client.Get(url)
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK && string(body) == "Ok\n" {
			return nil
		}
	}
	return errors.New("the emulator was not ready within a minute")
}

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
