package confine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/testkit/need"
)

const testUIDs = 2_100_000_000

func lockUIDs(t testing.TB, count int) *UIDs {
	u, err := LockUIDs(testUIDs, count, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { u.Close() })
	return u
}

// newConfined is a bench whose children are confined and have uids.
func newConfined(t testing.TB) *bench {
	need.Root(t)
	uids := lockUIDs(t, 100)
	return newBenchWith(t, &Confinement{UIDs: uids})
}

func (b *bench) newWorkspace(folders ...string) string {
	w, err := b.NewWorkspace(folders...)
	require.NoError(b.t, err)
	return w
}

// shell is a shell in a workspace that runs text, whose $1 is a file to write pids to.
func shell(workspace, text string) Spec {
	return Spec{Path: "/bin/sh", Args: []string{"-c", text, "sh", filepath.Join(workspace, "pids")},
		Env: []string{"PATH=/usr/bin:/bin"}, Workspace: workspace}
}

// says runs text to its end and returns what it wrote.
func (b *bench) says(workspace, text string) string {
	c := b.start(shell(workspace, text))
	out, err := io.ReadAll(c.Stdout)
	require.NoError(b.t, err)
	requireDone(b.t, c)
	require.NoError(b.t, c.Stop(context.Background(), Ladder{}))
	return strings.TrimSpace(string(out) + c.StderrTail())
}

func TestConfined_ChildHasNothingButItsOwnUID(t *testing.T) {
	b := newConfined(t)
	groups, err := syscall.Getgroups()
	require.NoError(t, err)
	require.NoError(t, syscall.Setgroups([]int{4242}))
	defer func() { require.NoError(t, syscall.Setgroups(groups)) }()
	w := b.newWorkspace("work")
	status := b.says(w, `id -u; id -g; id -G; grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/$$/status | tr -s ' `+
		`\t' ' '`)
	require.Equal(t, strings.TrimSpace(strings.ReplaceAll(`UID
UID
UID
Groups: 
NoNewPrivs: 1
Seccomp: 2`, "UID", strconv.Itoa(b.Owner(w)))), strings.TrimSpace(withoutCaps(t, status)))
	require.Equal(t, "hello", b.says(w, "cd work && echo hello > f && cat f"))
}

func withoutCaps(t *testing.T, status string) string {
	var rest []string
	for _, line := range strings.Split(status, "\n") {
		if !strings.HasPrefix(line, "Cap") {
			rest = append(rest, line)
			continue
		}
		require.Regexp(t, `^Cap(Inh|Prm|Eff|Bnd|Amb): 0+$`, line)
	}
	require.Len(t, rest, 6)
	return strings.Join(rest, "\n")
}

func TestConfined_AUIDIsAWorkspacesForAsLongAsThereIsOne(t *testing.T) {
	b := newConfined(t)
	one, two := b.newWorkspace(), b.newWorkspace()
	first := b.says(one, "id -u")
	require.Equal(t, first, b.says(one, "id -u"), "kept from one child to the next")
	require.NotEqual(t, first, b.says(two, "id -u"))
	for _, w := range []string{one, two} {
		info, err := os.Stat(w)
		require.NoError(t, err)
		require.EqualValues(t, b.Owner(w), info.Sys().(*syscall.Stat_t).Uid)
		require.Equal(t, os.ModeDir|0o700, info.Mode())
	}

	c := b.start(shell(one, "exec sleep 1000"))
	require.ErrorIs(t, b.RemoveWorkspace(one), ErrWorkspaceBusy)
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	require.NoError(t, b.RemoveWorkspace(one))
	require.NoDirExists(t, one)
	require.Error(t, b.RemoveWorkspace(b.root))
	require.Error(t, b.RemoveWorkspace(filepath.Join(two, "inner")))
}

func TestConfined_NoChildStartsWithoutAUID(t *testing.T) {
	b := newConfined(t)
	_, err := b.Start(context.Background(), shell(b.workspace("foreign"), "true"))
	require.ErrorContains(t, err, "NewWorkspace")
}

func TestUIDs_AreNotReusedWhileAnythingRunsUnderThem(t *testing.T) {
	need.Root(t)
	u := lockUIDs(t, 3)
	one, err := u.acquire()
	require.NoError(t, err)
	stray := startAs(t, one)
	u.release(one)
	for range 2 {
		other, err := u.acquire()
		require.NoError(t, err)
		require.NotEqual(t, one, other)
	}
	_, err = u.acquire()
	require.ErrorIs(t, err, ErrNoUID)
	require.NoError(t, stray.Process.Kill())
	_ = stray.Wait()
	again, err := u.acquire()
	require.NoError(t, err)
	require.Equal(t, one, again)
}

func startAs(t *testing.T, id int) *exec.Cmd {
	cmd := exec.Command("/bin/sleep", "1000")
	// Not in the tests' own session, which is spared.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestLockUIDs_BlocksOfLivingInstancesDontOverlapAndThoseOfDeadOnesAreCleared(t *testing.T) {
	need.Root(t)
	one, two := lockUIDs(t, 50), lockUIDs(t, 50)
	require.False(t, two.has(one.first) || two.has(one.first+one.count-1) || one.has(two.first))
	ofTheDead, ofTheLiving := startAs(t, one.first+7), startAs(t, two.first+7)
	require.NoError(t, one.Close())

	again := lockUIDs(t, 50)
	requireEnds(t, ofTheDead.Process.Pid)
	_, err := look(ofTheLiving.Process.Pid)
	require.NoError(t, err)

	for _, count := range []int{1, 70, 1000} {
		other := lockUIDs(t, count)
		for _, u := range []*UIDs{again, two} {
			require.True(t, other.first+other.count <= u.first || other.first >= u.first+u.count, "%d of %d", other.first, count)
		}
	}
	_, err = LockUIDs(uidEnd-10, 100, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, ErrNoUID)
}

func TestConfined_NothingOfAUIDOutlivesItsChild(t *testing.T) {
	for name, escape := range escapes {
		t.Run(name, func(t *testing.T) {
			b := newConfined(t)
			w := b.newWorkspace()
			c := b.start(shell(w, "exec 2>/dev/null\n"+escape.text+"\nexec cat"))
			left := pids(t, w, escape.pids)
			require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: patience}))
			requireGone(t, append(left, c.PID())...)
		})
	}
}

func TestRemoveWorkspace_TakesWhateverATenantLeft(t *testing.T) {
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "precious"), nil, 0o666))
	for name, text := range map[string]string{
		"deep folders":       `perl -e 'for (1..700) { mkdir "d"; chdir "d" }'`,
		"deep closed folder": `mkdir c && cd c && perl -e 'for (1..700) { mkdir "d"; chdir "d" }'; chmod 0 ../c`,
		"links":              `ln -s ` + outside + ` l; ln -s / root; mkfifo p`,
		"many files":         `perl -e 'for (1..5000) { open F, ">f$_" }'`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newConfined(t)
			w := b.newWorkspace()
			require.Empty(t, b.says(w, text))
			fewFiles(t, 500)
			require.NoError(t, b.RemoveWorkspace(w))
			require.NoDirExists(t, w)
			require.FileExists(t, filepath.Join(outside, "precious"))
		})
	}
}

// fewFiles lets the test open no more files than that.
func fewFiles(t *testing.T, n uint64) {
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: before.Max}))
	t.Cleanup(func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)) })
}

// Whatever runs under the uid goes with the child, also what no kinship leads to.
func TestConfined_AllOfTheUIDEndsWithItsChild(t *testing.T) {
	b := newConfined(t)
	w := b.newWorkspace()
	c := b.start(shell(w, "exec cat"))
	as := strconv.Itoa(b.Owner(w))
	stranger := exec.Command("/bin/sh", "-c", "setsid setpriv --reuid "+as+" --regid "+as+" --clear-groups sleep 1000; :")
	require.NoError(t, stranger.Start())
	var found []int
	defer func() {
		for _, pid := range found {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = stranger.Wait()
	}()
	require.Eventually(t, func() bool {
		all, err := scan(nil)
		require.NoError(t, err)
		for _, p := range all {
			if id, err := p.uid(); err == nil && p.ppid == stranger.Process.Pid && id == b.Owner(w) {
				found = append(found, p.pid)
			}
		}
		return len(found) > 0
	}, patience, time.Millisecond)
	require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: patience}))
	requireEnds(t, found...)
}

// Without its environment and in a session of its own, the uid alone tells whose it is.
func TestConfined_AnOrphanIsKnownByItsUID(t *testing.T) {
	b := newConfined(t)
	w := b.newWorkspace()
	c := b.start(shell(w, `env -i setsid -f sh -c 'echo $$ >> $0; exec /bin/sleep 1000' $1; exec cat`))
	orphan := pids(t, w, 1)
	require.Eventually(t, func() bool {
		p, err := look(orphan[0])
		require.NoError(t, err)
		return p.ppid == os.Getpid()
	}, patience, time.Millisecond)
	reaper.endStrays(b.logger, nil)
	_, err := look(orphan[0])
	require.NoError(t, err)
	require.NotContains(t, b.logs.String(), "hides")
	u, err := c.Usage()
	require.NoError(t, err)
	require.Equal(t, 2, u.Processes)
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	requireGone(t, orphan...)
}

// The change of the uid takes the parent's-death signal back, so it has to be asked for again.
func TestConfined_ChildDiesWithTheInstance(t *testing.T) {
	need.Root(t)
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Dir(root), passable))
	service, out := startOutside(t, "confined-instance", root)
	pid := 0
	for line := ""; line != "started"; line = readLine(t, out) {
		if line != "" {
			pid = number(t, line)
		}
	}
	require.NoError(t, service.Process.Signal(unix.SIGKILL))
	require.Error(t, service.Wait())
	requireEnds(t, pid)
	require.NoError(t, lockFolder(t, root).Close())
}

func TestConfined_ChildHasNoFilesButItsPipes(t *testing.T) {
	b := newConfined(t)
	require.Equal(t, "0 1 2", b.says(b.newWorkspace(),
		`for i in 0 1 2 3 4 5 6 7 8 9; do if [ -e /proc/$$/fd/$i ]; then echo -n "$i "; fi; done`))
}

func TestConfined_AChildReachesItsOwnPortAndNotAnothers(t *testing.T) {
	b := newConfined(t)
	var specs []Spec
	var ports []uint16
	for range 2 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { listener.Close() })
		port := uint16(listener.Addr().(*net.TCPAddr).Port)
		ports = append(ports, port)
		specs = append(specs, Spec{Workspace: b.newWorkspace(), Connect: []uint16{port}})
	}
	for i, spec := range specs {
		for j, port := range ports {
			spec.Path, spec.Args = "/bin/bash", []string{"-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", port)}
			c := b.start(spec)
			requireDone(t, c)
			require.Equal(t, i == j, c.Exit() == Exit{}, "child %d, port %d: %s", i, j, c.StderrTail())
			require.NoError(t, c.Stop(context.Background(), Ladder{}))
		}
	}
}

func TestConfined_PortsThatAreGivenBackCanBeUsed(t *testing.T) {
	need.Root(t)
	const port = 47123
	uids := lockUIDs(t, 100)
	b := newBenchWith(t, &Confinement{UIDs: uids, Connect: []uint16{port}, Bind: []uint16{port}})
	script := `use Socket; socket(my $s, AF_INET, SOCK_STREAM, 0) or die "socket $!";
setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
bind($s, sockaddr_in(%d, INADDR_LOOPBACK)) or die "bind $!"; listen($s, 1) or die "listen $!";
socket(my $c, AF_INET, SOCK_STREAM, 0); connect($c, sockaddr_in(%d, INADDR_LOOPBACK)) or die "connect $!";
print "served"`
	perl := func(port int) string { return "perl -e '" + strings.ReplaceAll(script, "%d", strconv.Itoa(port)) + "'" }
	w := b.newWorkspace()
	require.Equal(t, "served", b.says(w, perl(port)))
	require.Contains(t, b.says(w, perl(port+1)), "bind Permission denied")
	report, err := b.Probe(t.Context(), "/bin/sh")
	require.NoError(t, err)
	require.Empty(t, report.Missing())
}

func TestConfined_TheMachinesOtherSystemCallsAreDeniedAsWell(t *testing.T) {
	b := newConfined(t)
	w := b.newWorkspace()
	file := filepath.Join(w, "exit42")
	require.NoError(t, os.WriteFile(file, exit42(), 0o755))
	out, err := exec.Command(file).CombinedOutput()
	for errors.Is(err, syscall.ETXTBSY) { // a process that another goroutine has just forked still has it open for writing
		time.Sleep(time.Millisecond)
		out, err = exec.Command(file).CombinedOutput()
	}
	if errors.Is(err, syscall.ENOEXEC) {
		t.Log("this kernel runs no programs for 32 bits: there is nothing to deny")
	} else {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s", out)
		require.Equal(t, 42, exit.ExitCode())
	}
	require.NotRegexp(t, `(?m)^42$`, b.says(w, w+"/exit42; echo $?"))
}

// exit42 is a program for 32 bits that exits with 42, and crashes if it can't.
func exit42() []byte {
	const base, start = 0x08048000, 84
	code := []byte{0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80, 0xf4} // mov eax, 1; mov ebx, 42; int 0x80; hlt
	u16 := func(n int) []byte { return []byte{byte(n), byte(n >> 8)} }
	u32 := func(n int) []byte { return []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)} }
	var elf []byte
	add := func(parts ...[]byte) {
		for _, p := range parts {
			elf = append(elf, p...)
		}
	}
	add([]byte{0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, u16(2), u16(3), u32(1), u32(base+start), u32(52),
		u32(0), u32(0),
		u16(52), u16(32), u16(1), u16(0), u16(0), u16(0))
	size := start + len(code)
	add(u32(1), u32(0), u32(base), u32(base), u32(size), u32(size), u32(5), u32(4096))
	add(code)
	return elf
}
