package pool_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"claudepool/infra/snapshot"
	"claudepool/infra/testkit/need"
	"claudepool/pool"
	"claudepool/pool/confine"
	"claudepool/pool/pooltest"
)

// inNamespace is set where the tests of attacks run: in a network namespace of their own, which has a metadata server.
const inNamespace = "CLAUDEPOOL_TEST_NAMESPACE"

const metadataServer = "169.254.169.254"

// TestAttacks has the agent of tenant B, through the Bash tool of the real CLI, try what it must not be able to do to
// tenant A, to the service and to what is around it. Every attempt is made twice: without isolation, where it has to
// get through so that the test shows something, and with it.
func TestAttacks(t *testing.T) {
	t.Parallel()
	if os.Getenv(inNamespace) == "" {
		runInNamespace(t)
		return
	}
	upLoopback(t)
	around := surroundings(t)
	standbys := withStandby(2) // as many as tenants come at once, so that none is one too many later
	open := newScene(t, nil, around, standbys)
	open.findStandby()
	through := open.attack()
	held := newScene(t, confinement(t), around, standbys)
	held.findStandby()
	undisturbed := held.keepTalking()
	results := held.attack()
	undisturbed()
	for _, a := range attempts() {
		t.Run(a.name, func(t *testing.T) {
			require.Equal(t, "through", through[a.name], "the control: without isolation")
			require.Equal(t, "held", results[a.name])
		})
	}
	for _, a := range abilities() {
		t.Run("still can "+a.name, func(t *testing.T) { require.Equal(t, "through", results[a.name]) })
	}
	t.Logf("%d attempts", len(attempts()))
	require.Equal(t, "reply to: still here", held.ask("ada", "still here", nil).text(t))
	require.Equal(t, held.victim.pid, held.ask("ada", "the same", nil).pid, "A's process lives")
	secret, err := os.ReadFile(filepath.Join(held.victim.workspace, "work", "secret"))
	require.NoError(t, err)
	require.Equal(t, victimSecret, string(secret))
	next := held.ask("next", "hello", nil)
	require.Equal(t, "reply to: hello", next.text(t))
	require.Equal(t, held.environment["STANDBY_PID"], next.pid, "what B tried on is the next user's")
}

// keepTalking has A take one turn after the other until stop is called, each of which has to arrive whole.
func (s *scene) keepTalking() (stop func()) {
	const words = 50
	var whole strings.Builder
	for i := range words {
		fmt.Fprintf(&whole, "w%d ", i)
	}
	var (
		replies []reply
		talk    sync.WaitGroup
		over    = make(chan struct{})
		before  = len(s.api.Calls())
	)
	talk.Go(func() {
		for {
			replies = append(replies, s.ask("ada", fmt.Sprintf("long [[words=%d]][[delay=50ms]]", words), nil))
			select {
			case <-over:
				return
			default:
			}
		}
	})
	s.awaitCall(before)
	return func() {
		s.t.Helper()
		close(over)
		talk.Wait()
		s.t.Logf("A took %d turns meanwhile", len(replies))
		for _, r := range replies {
			require.Equal(s.t, whole.String(), r.text(s.t))
			require.Equal(s.t, s.victim.pid, r.pid)
		}
	}
}

func runInNamespace(t *testing.T) {
	need.Root(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
}

// nameserver is the machine's, or empty if it has none that an IPv4 address leads to.
func nameserver() string {
	config, _ := os.ReadFile("/etc/resolv.conf")
	for line := range strings.Lines(string(config)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "nameserver" &&
			net.ParseIP(fields[1]).To4() != nil {
			return fields[1]
		}
	}
	return ""
}

// upLoopback brings the new namespace's loopback up and gives it the addresses of what is to be found there as well.
func upLoopback(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	for i, address := range []string{metadataServer, nameserver()} {
		if ip := net.ParseIP(address).To4(); ip != nil && ip[0] != 127 {
			alias, err := unix.NewIfreq(fmt.Sprintf("lo:%d", i))
			require.NoError(t, err)
			require.NoError(t, alias.SetInet4Addr(ip))
			require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias))
		}
	}
	lo, err := unix.NewIfreq("lo")
	require.NoError(t, err)
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}

func confinement(t testing.TB) *confine.Confinement {
	uids, err := confine.LockUIDs(2_100_000_000, 100, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, uids.Close()) })
	return &confine.Confinement{UIDs: uids, Connect: []uint16{53, 443}}
}

// tenant is a user with a process.
type tenant struct{ pid, workspace, index string }

// scene is a service with two tenants, ada and bob, and what is around it.
type scene struct {
	*service
	free             bool // without isolation
	victim, attacker tenant
	environment      map[string]string
}

const victimSecret = "what ada wrote down"

// surroundings are what a tenant could reach beside the service, by the names that attempts have for them.
func surroundings(t *testing.T) map[string]string {
	spool := t.TempDir() // as that of cron and at, but nobody needs their setgid programs to write there
	require.NoError(t, os.Chmod(filepath.Dir(spool), 0o711))
	require.NoError(t, os.Chmod(spool, 0o777|os.ModeSticky))
	listen(t, "127.0.0.1:443")
	if server := nameserver(); server != "" {
		resolve(t, server)
	}
	return map[string]string{
		"META": metadataServer, "META_PORT": listen(t, metadataServer+":80"), "REDIS_PORT": listen(t, "127.0.0.1:6379"),
		"EMULATOR_PORT": listen(t, "127.0.0.1:8085"), "OTHER_PORT": listen(t, "127.0.0.1:0"),
		"SPOOL": spool,
	}
}

// newScene is a scene without standbys; change may alter the pool's options.
func newScene(t *testing.T, confinement *confine.Confinement, around map[string]string,
	change func(*pool.Options)) *scene {
	s := &scene{free: confinement == nil, service: newServiceWith(t, confinement, func(o *pool.Options) {
		o.PermissionMode, o.Confined = "bypassPermissions", true
		o.FreezeAfter, o.IdleTimeout, o.TurnTimeout = time.Hour, time.Hour, 10*time.Minute
		if change != nil {
			change(o)
		}
		if confinement == nil {
			o.ClaudeBin = asRoot(t, o.ClaudeBin)
		}
	})}
	s.victim, s.attacker = s.newTenant("ada"), s.newTenant("bob")
	s.place(s.victim, "secret", []byte(victimSecret), 0o600)
	path, err := pooltest.AttackTool()
	require.NoError(t, err)
	tool, err := os.ReadFile(path)
	require.NoError(t, err)
	s.place(s.attacker, "tool", tool, 0o755)
	for _, name := range []string{"setuid", "sudo"} {
		s.place(s.attacker, name, tool, 0o755)
		setuid := filepath.Join(s.attacker.workspace, "work", name)
		require.NoError(t, os.Chown(setuid, 0, 0))
		require.NoError(t, os.Chmod(setuid, 0o755|os.ModeSetuid))
	}
	s.environment = map[string]string{
		"A": s.victim.workspace, "A_PID": s.victim.pid, "A_INDEX": s.victim.index, "INSTANCE": s.root,
		"SERVICE": strconv.Itoa(os.Getpid()), "TOOL": filepath.Join(s.attacker.workspace, "work", "tool"),
		"SERVICE_PORT": s.url[strings.LastIndex(s.url, ":")+1:],
	}
	s.environment["A_BROKER"], s.environment["A_BROKER_PORT"] = brokerOf(t, s.victim)
	maps.Copy(s.environment, around)
	return s
}

// brokerOf is where a tenant's process finds the API.
func brokerOf(t *testing.T, of tenant) (host, port string) {
	host, port, err := net.SplitHostPort(variable(t, of.pid, "ANTHROPIC_BASE_URL=http://"))
	require.NoError(t, err)
	return host, port
}

// variable is what follows in the process's environment.
func variable(t testing.TB, pid, name string) string {
	t.Helper()
	environ, err := os.ReadFile("/proc/" + pid + "/environ")
	require.NoError(t, err)
	for variable := range strings.SplitSeq(string(environ), "\x00") {
		if value, ok := strings.CutPrefix(variable, name); ok {
			return value
		}
	}
	require.Fail(t, "the process has no such variable", name)
	return ""
}

// asRoot is the CLI for a service without isolation: as root it otherwise runs no tools unasked.
func asRoot(t *testing.T, cli string) string { return wrapped(t, cli, "IS_SANDBOX=1", "") }

// wrapped is the CLI with a variable and an argument more than the service gives it, each of which may be empty.
func wrapped(t testing.TB, cli, variable, argument string) string {
	path := filepath.Join(t.TempDir(), "claude")
	script := fmt.Sprintf("#!/bin/sh\n%s exec %s %s \"$@\"\n", variable, cli, argument)
	require.NoError(t, os.WriteFile(path, []byte(script), 0o755))
	return path
}

// findStandby tells attempts of the process that the next user will get: the younger of two.
func (s *scene) findStandby() {
	s.awaitStandbys(2)
	var pids []string
	require.Eventually(s.t, func() bool { pids = s.standbys(); return len(pids) == 2 }, time.Minute, 5*time.Millisecond)
	pid := slices.MaxFunc(pids, func(a, b string) int { return cmp.Compare(startTime(s.t, a), startTime(s.t, b)) })
	s.environment["STANDBY"], s.environment["STANDBY_PID"] = variable(s.t, pid, confine.Marker+"="), pid
}

// standbys are the pids of all that was started and is no user's.
func (s *scene) standbys() []string {
	users := s.pool.Snapshot().Users
	return slices.DeleteFunc(s.processes(), func(pid string) bool {
		return slices.ContainsFunc(users, func(u snapshot.User) bool { return strconv.Itoa(u.PID) == pid })
	})
}

// startTime is when a process was started, in ticks.
func startTime(t testing.TB, pid string) (ticks int) {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(stat), ") ")
	ticks, err = strconv.Atoi(strings.Fields(after)[19]) // the 22nd of all fields
	require.NoError(t, err)
	return ticks
}

func (s *scene) newTenant(user string) tenant {
	r := s.ask(user, "hello", nil)
	r.text(s.t)
	links, err := filepath.Glob(filepath.Join(s.root, userID(user), "*"))
	require.NoError(s.t, err)
	require.Len(s.t, links, 1)
	workspace, err := filepath.EvalSymlinks(links[0])
	require.NoError(s.t, err)
	return tenant{pid: r.pid, workspace: workspace, index: links[0]}
}

// place puts a file in a tenant's working directory that is the tenant's own.
func (s *scene) place(of tenant, name string, content []byte, mode os.FileMode) {
	path := filepath.Join(of.workspace, "work", name)
	require.NoError(s.t, os.WriteFile(path, content, mode))
	info, err := os.Stat(of.workspace)
	require.NoError(s.t, err)
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	require.NoError(s.t, os.Chown(path, owner, owner))
}

// listen answers whoever comes, by TCP with HTTP and by UDP, and returns the port.
func listen(t *testing.T, addr string) string {
	tcp, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "token")
	})}
	go func() { _ = server.Serve(tcp) }()
	t.Cleanup(func() { server.Close() })
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	require.NoError(t, err)
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { udp.Close() })
	_, port, err := net.SplitHostPort(tcp.Addr().String())
	require.NoError(t, err)
	return port
}

// resolve answers questions for names, by TCP alone, as if all of them were loopback's.
func resolve(t *testing.T, address string) {
	listener, err := net.Listen("tcp", address+":53")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answerNames(conn)
		}
	}()
}

func answerNames(conn net.Conn) {
	defer conn.Close()
	for {
		var size uint16
		if binary.Read(conn, binary.BigEndian, &size) != nil {
			return
		}
		raw := make([]byte, size)
		var m dnsmessage.Message
		if _, err := io.ReadFull(conn, raw); err != nil || m.Unpack(raw) != nil {
			return
		}
		m.Response, m.Additionals = true, nil
		for _, q := range m.Questions {
			if q.Type == dnsmessage.TypeA {
				header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header,
					Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}})
			}
		}
		answer, err := m.Pack()
		if err != nil {
			return
		}
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}

// attack makes all attempts and tells of each whether it got through or was held.
func (s *scene) attack() map[string]string {
	var script bytes.Buffer
	for name, value := range s.environment {
		fmt.Fprintf(&script, "export %s='%s'\n", name, value)
	}
	script.WriteString(`try() { if timeout -k 1 20 bash -c "$2" >/dev/null 2>&1 </dev/null; then echo "@@$1=through"; ` +
		`else echo "@@$1=held"; fi; }` + "\n")
	for _, a := range append(attempts(), abilities()...) {
		command := a.command
		if s.free && a.control != "" {
			command = a.control
		}
		fmt.Fprintf(&script, "try %s %s\n", quoted(a.name), quoted(command))
	}
	s.place(s.attacker, "attack.sh", script.Bytes(), 0o644)
	output := s.bash("bob", "bash attack.sh")
	results := make(map[string]string)
	for line := range strings.Lines(output) {
		_, line, _ = strings.Cut(line, "@@")
		if name, result, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			results[name] = result
		}
	}
	return results
}

// quoted is a text as one word of a shell's.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// bash has the agent of the user run a command and returns what it said.
func (s *service) bash(user, command string) string {
	s.t.Helper()
	input, err := json.Marshal(map[string]any{"command": command, "timeout": (5 * time.Minute).Milliseconds()})
	require.NoError(s.t, err)
	return s.ask(user, "[[tool=Bash "+string(input)+"]]", nil).text(s.t)
}
