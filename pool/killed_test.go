package pool_test

import (
	"bufio"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
	"claudepool/pool"
	"claudepool/pool/confine"
)

const (
	victimCLI   = "CLAUDEPOOL_VICTIM" // in the environment of a service that is to be killed: which CLI it has
	timesKilled = "KILLED"            // how often it is killed; make parked has the long test
	asking      = "a parked process is asked for"
)

// A service can be killed at any moment of a claim: before the process is bound, while the transcript takes the gate's
// place, before and after the process reads it. The next one that starts there leaves nothing of it: no process, no
// gate, no workspace.
func TestParked_NothingIsLeftOfAServiceThatIsKilled(t *testing.T) {
	t.Parallel()
	need.Root(t)
	if cli := os.Getenv(victimCLI); cli != "" {
		beKilled(t, cli)
	}
	n := 2
	if text := os.Getenv(timesKilled); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	for cli, window := range map[string]time.Duration{"scripted": 20 * time.Millisecond, "real": 300 * time.Millisecond} {
		for range n {
			killService(t, cli, window)
		}
	}
}

// beKilled claims parked processes, one after the other, until it is killed.
func beKilled(t *testing.T, cli string) {
	bin, err := scriptedCLI()
	if cli == "real" {
		bin = os.Getenv("CLAUDE_BIN")
	}
	require.NoError(t, err)
	s := startService(t, bin, confinement(t), func(o *pool.Options) {
		o.PermissionMode, o.Confined, o.Parked = "bypassPermissions", true, 1
		replacedSoon(o)
	})
	for i := 0; ; i++ {
		s.parked("")
		fmt.Println(asking, s.root)
		s.ask(fmt.Sprint("user-", i), "", three)
	}
}

// killService starts a service, kills it in the middle of a claim, and requires that nothing is left of it when the
// next one has started.
func killService(t *testing.T, cli string, window time.Duration) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	folder := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(folder), 0o711))
	c := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.count=1")
	c.Env = append(os.Environ(), victimCLI+"="+cli, "TMPDIR="+folder)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	root, said := "", bufio.NewScanner(out)
	for claims := 1 + rand.N(2); claims > 0 && said.Scan(); {
		if at, ok := strings.CutPrefix(said.Text(), asking+" "); ok {
			root, claims = at, claims-1
		}
	}
	time.Sleep(rand.N(window))
	require.NoError(t, c.Process.Kill())
	_ = c.Wait()
	require.NotEmpty(t, root, "it has never asked")

	next, err := confine.LockFolder(filepath.Dir(root), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer func() { require.NoError(t, next.Close()) }()
	require.NoDirExists(t, root)
	require.Empty(t, (&service{t: t, root: root}).processes())
}
