package confine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"claudepool/pool/pooltest/hold"
)

// patience is how long a test waits for what should take an instant.
const patience = 30 * time.Second

// helpers are what the test binary does when a test starts it as a process of its own.
var helpers = map[string]func(args []string){
	"cat":      func([]string) { _, _ = io.Copy(os.Stdout, os.Stdin) },
	"exit":     func(args []string) { code, _ := strconv.Atoi(args[0]); os.Exit(code) },
	"deaf":     deaf,
	"polite":   polite,
	"instance": instance,
	"probe":    probeInFolder,
	"grouped":  grouped,
	"modest":   modest,
	"precede":  raisePriority,
	"toil":     toil,
	"hold":     func(args []string) { check(hold.Main(args)) },

	"confined-instance": confinedInstance,
}

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "-helper" {
		helpers[os.Args[2]](os.Args[3:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// deaf ignores the end of its stdin and SIGTERM.
func deaf([]string) {
	signal.Ignore(unix.SIGTERM)
	fmt.Println("ready")
	time.Sleep(time.Hour) // not select, which Go takes for a deadlock where nothing else goes on
}

// polite ignores the end of its stdin and exits with 3 at SIGTERM.
func polite([]string) {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	fmt.Println("ready")
	<-term
	os.Exit(3)
}

// instance is a service with one child, which runs the script given. It prints the child's pid.
func instance(args []string) {
	folder, err := LockFolder(args[0], slog.New(slog.DiscardHandler))
	check(err)
	l, err := New(Options{Root: folder.Path(), Logger: slog.New(slog.DiscardHandler)})
	check(err)
	workspace := filepath.Join(folder.Path(), "w")
	check(os.Mkdir(workspace, 0o700))
	c, err := l.Start(context.Background(), script(workspace, args[1]))
	check(err)
	fmt.Println(c.PID())
	_, _ = io.Copy(os.Stdout, c.Stdout)
	select {}
}

// raisePriority is a service that comes before others, with one child that doesn't. It prints both priorities as the
// system call tells them.
func raisePriority(args []string) {
	check(RaisePriority())
	l, err := New(Options{Root: args[0], Logger: slog.New(slog.DiscardHandler)})
	check(err)
	workspace := filepath.Join(args[0], "w")
	check(os.Mkdir(workspace, 0o700))
	c, err := l.Start(context.Background(), Spec{Path: "/bin/cat", Workspace: workspace})
	check(err)
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // of any thread but the one that forks
	check(err)
	childs, err := unix.Getpriority(unix.PRIO_PROCESS, c.PID())
	check(err)
	fmt.Println(own, childs)
	check(l.Close())
}

// confinedInstance is a service with one child under a uid of its own, which never ends. It prints the child's pid.
func confinedInstance(args []string) {
	folder, err := LockFolder(args[0], slog.New(slog.DiscardHandler))
	check(err)
	uids, err := LockUIDs(testUIDs, 100, slog.New(slog.DiscardHandler))
	check(err)
	l, err := New(Options{Root: folder.Path(), Logger: slog.New(slog.DiscardHandler),
		Confinement: &Confinement{UIDs: uids}})
	check(err)
	workspace, err := l.NewWorkspace()
	check(err)
	c, err := l.Start(context.Background(), shell(workspace, "echo started; while :; do sleep 1; done"))
	check(err)
	fmt.Println(c.PID())
	_, _ = io.Copy(os.Stdout, c.Stdout)
	select {}
}

// probeInFolder prints what a probe without uids reports.
func probeInFolder(args []string) {
	l, err := New(Options{Root: args[0], Logger: slog.New(slog.DiscardHandler),
		Confinement: &Confinement{BestEffort: true}})
	check(err)
	report, err := l.Probe(context.Background(), "/bin/sh")
	check(err)
	check(json.NewEncoder(os.Stdout).Encode(report))
	check(l.Close())
}

func number(t testing.TB, text string) int {
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// script is a shell that runs text, whose $0 is a file with that text, and $1 a file to write pids to.
func script(workspace, text string) Spec {
	file := filepath.Join(workspace, "script")
	check(os.WriteFile(file, []byte(text), 0o700))
	return Spec{
		Path: "/bin/sh", Args: []string{file, filepath.Join(workspace, "pids")},
		Env: []string{"PATH=/usr/bin:/bin"}, Workspace: workspace,
	}
}

func helper(workspace string, name string, args ...string) Spec {
	self, err := os.Executable()
	check(err)
	return Spec{Path: self, Args: append([]string{"-helper", name}, args...),
		Env: []string{"GORACE=atexit_sleep_ms=0"}, Workspace: workspace}
}

// logs is a log that tests can read while it is written.
type logs struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// bench is a Launcher under test. At the test's end nothing may be left of it.
type bench struct {
	*Launcher
	t    testing.TB
	root string
	logs *logs
}

func newBench(t testing.TB) *bench { return newBenchWith(t, nil) }

func newBenchWith(t testing.TB, confinement *Confinement) *bench {
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Dir(root), passable)) // made for the service's uid alone
	require.NoError(t, os.Chmod(root, passable))
	log := &logs{}
	l, err := New(Options{Root: root, Logger: slog.New(slog.NewTextHandler(log, nil)), Confinement: confinement})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		require.Empty(t, marked(t, root), "processes with a workspace's marker")
		if _, ok := t.(*testing.T); ok { // a benchmark has goroutines around it
			goleak.VerifyNone(t)
		}
	})
	return &bench{Launcher: l, t: t, root: root, logs: log}
}

func (b *bench) workspace(name string) string {
	path := filepath.Join(b.root, name)
	require.NoError(b.t, os.MkdirAll(path, 0o700))
	return path
}

func (b *bench) start(spec Spec) *Child {
	c, err := b.Start(context.Background(), spec)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { c.Stdout.Close() })
	return c
}

func (b *bench) script(text string) *Child { return b.start(script(b.workspace("w"), text)) }

func readLine(t testing.TB, r io.Reader) string {
	line, err := bufio.NewReader(r).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

// pids waits until n pids have been written to the workspace's file.
func pids(t testing.TB, workspace string, n int) []int {
	var found []int
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(filepath.Join(workspace, "pids"))
		found = nil
		for line := range strings.Lines(string(text)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && strings.HasSuffix(line, "\n") {
				found = append(found, pid)
			}
		}
		return len(found) >= n
	}, patience, 5*time.Millisecond)
	return found
}

// marked returns the processes of the machine that carry the marker of a workspace below root.
func marked(t testing.TB, root string) []process {
	all, err := scan(nil)
	require.NoError(t, err)
	var found []process
	for _, p := range all {
		if workspace, _ := marker(p.pid); strings.HasPrefix(workspace, root+"/") {
			found = append(found, p)
		}
	}
	return found
}

// requireGone fails if one of the processes is there, if only as a zombie.
func requireGone(t testing.TB, pids ...int) {
	t.Helper()
	require.NotEmpty(t, pids)
	for _, pid := range pids {
		p, err := look(pid)
		require.Error(t, err, "%v is there, child of %d", p, p.ppid)
	}
}

// requireEnds waits until the processes have ended. Zombies whose parent is another process count as ended.
func requireEnds(t testing.TB, pids ...int) {
	t.Helper()
	require.NotEmpty(t, pids)
	for _, pid := range pids {
		require.Eventually(t, func() bool {
			p, err := look(pid)
			return err != nil || p.state == 'Z'
		}, patience, 5*time.Millisecond, "process %d is there", pid)
	}
}

func requireDone(t testing.TB, c *Child) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(patience):
		require.FailNow(t, "child didn't end")
	}
}

// startOutside starts a helper without a Launcher.
func startOutside(t testing.TB, name string, args ...string) (*exec.Cmd, io.Reader) {
	spec := helper("", name, args...)
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, out
}
