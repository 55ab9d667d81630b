package pool_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is a command for bash that succeeds if it got through.
type attempt struct{ name, command string }

// attempts are what a tenant must not be able to do.
func attempts() []attempt {
	all := append([]attempt(nil), direct...)
	for _, file := range []string{"environ", "maps", "cmdline", "status", "stack", "auxv", "io"} {
		all = append(all, attempt{"read /proc/A/" + file, "cat /proc/$A_PID/" + file})
	}
	for _, folder := range []string{"cwd", "root", "fd", "task"} {
		all = append(all, attempt{"list /proc/A/" + folder, "ls /proc/$A_PID/" + folder + "/"})
	}
	for _, target := range []struct{ name, host, port string }{
		{"the instance", "127.0.0.1", "$SERVICE_PORT"}, {"Redis", "127.0.0.1", "$REDIS_PORT"},
		{"the Firestore emulator", "127.0.0.1", "$EMULATOR_PORT"}, {"another instance", "127.0.0.1", "$OTHER_PORT"},
		{"the metadata server", "$META", "$META_PORT"},
	} {
		for _, how := range []string{"tcp", "mptcp", "fastopen", "fastopen-connect", "udp"} {
			if how == "udp" && target.name == "the instance" {
				continue // it has no UDP, so there would be no control
			}
			all = append(all, attempt{"reach " + target.name + " by " + how, "$TOOL -attack " + how + " " + target.host + " " + target.port})
		}
	}
	return all
}

// direct are attempts without variations. What would do harm as root is put back by the command itself.
var direct = []attempt{
	{"read A's file by its path", `cat $A/work/secret`},
	{"list A's workspace", `ls $A/work`},
	{"read A's transcripts", `find $A/home/.claude/projects -name "*.jsonl" -print0 | xargs -0 cat | grep hello`},
	{"write into A's workspace", `touch $A/work/planted && rm $A/work/planted`},
	{"append to A's file", `printf "" >> $A/work/secret`},
	{"rename A's file", `mv $A/work/secret $A/work/s2 && mv $A/work/s2 $A/work/secret`},
	{"read A's file by the index", `cat $A_INDEX/work/secret`},
	{"read A's file by a link", `ln -sf $A/work/secret link && cat link`},
	{"link A's file", `rm -f hard; ln $A/work/secret hard`},
	{"watch A's folder", `$TOOL -attack inotify $A/work`},
	{"list the instance's folder", `ls $INSTANCE`},
	{"list the root of workspaces", `ls $INSTANCE/..`},
	{"write to the instance's folder", `touch $INSTANCE/x && rm $INSTANCE/x`},
	{"enter A in the index", `mkdir $A_INDEX-x && rmdir $A_INDEX-x`},
	{"plant settings for A", `mkdir -p $A/home/.claude && touch $A/home/.claude/settings.local.json && rm $A/home/.claude/settings.local.json`},
	{"plant settings for everybody", `mkdir /etc/claude-code-attack && rmdir /etc/claude-code-attack`},
	{"plant a program in the path", `touch /usr/local/bin/claudepool-attack && rm /usr/local/bin/claudepool-attack`},
	{"fill /tmp", `f=$(mktemp -p /tmp) && rm $f`},
	{"fill /dev/shm", `f=$(mktemp -p /dev/shm) && rm $f`},
	{"fill /var/tmp", `f=$(mktemp -p /var/tmp) && rm $f`},
	{"read the passwords", `cat /etc/shadow`},
	{"read root's home", `ls /root`},
	{"write a huge file", `truncate -s 3G huge; r=$?; rm -f huge; exit $r`},
	{"make a device", `rm -f dev; mknod dev c 1 3 && rm dev`},
	{"give a file away", `touch given && chown 0:4242 given; r=$?; rm -f given; exit $r`},
	{"list processes", `ls /proc`},
	{"read A's memory", `head -c 1 /proc/$A_PID/mem 2>&1 | grep "Input/output"`}, // address 0: looked at, but nothing is there
	{"read the service's environment", `cat /proc/$SERVICE/environ`},
	{"list the service's files", `ls /proc/$SERVICE/fd`},
	{"write A's oom_score_adj", `cat /proc/$A_PID/oom_score_adj > s && cat s > /proc/$A_PID/oom_score_adj`},
	{"take A's secret to the broker", `s=$(tr "\0" "\n" < /proc/$A_PID/environ | grep ^CLAUDE_CODE_OAUTH_TOKEN= | cut -d= -f2) && $TOOL -attack broker $ANTHROPIC_BASE_URL "$s"`},
	{"take its own process's secret", `tr "\0" "\n" < /proc/$CLAUDE_PID/environ | grep ^CLAUDE_CODE_OAUTH_TOKEN=`},
	{"read everybody's connections", `cat /proc/$CLAUDE_PID/net/tcp`},
	{"read its own view of connections", `cat /proc/self/net/unix`},
	{"signal A", `kill -CONT $A_PID`},
	{"signal A's group", `kill -CONT -- -$A_PID`},
	{"signal the service", `kill -CONT $SERVICE`},
	{"trace A", `$TOOL -attack ptrace $A_PID`},
	{"trace the service", `$TOOL -attack ptrace $SERVICE`},
	{"read A's memory by call", `$TOOL -attack vmread $A_PID`},
	{"take A's files", `$TOOL -attack getfd $A_PID`},
	{"change A's limits", `$TOOL -attack prlimit $A_PID`},
	{"slow A down", `$TOOL -attack renice $A_PID`},
	{"pin A to a processor", `$TOOL -attack affinity $A_PID`},
	{"become root by a setuid file", `./setuid -attack uid0`},
	{"become root by su", `su root -c true`},
	{"become another user", `setpriv --reuid 12345 --clear-groups true`},
	{"raise its own limits", `ulimit -n 20000`},
	{"mount", `mkdir -p m && mount -t tmpfs none m && umount m`},
	{"unshare a user namespace", `unshare -U true`},
	{"unshare a mount namespace", `unshare -m true`},
	{"unshare a network namespace", `unshare -n true`},
	{"enter the service's namespaces", `nsenter -t $SERVICE -n true`},
	{"change its root", `chroot / /bin/true`},
	{"load a bpf program", `$TOOL -attack bpf`},
	{"use io_uring", `$TOOL -attack io_uring`},
	{"use keyrings", `$TOOL -attack keyctl`},
	{"measure others", `$TOOL -attack perf`},
	{"leave shared memory behind", `$TOOL -attack shm`},
	{"open a raw socket", `$TOOL -attack socket 2 3 1`},
	{"open a packet socket", `$TOOL -attack socket 17 3 768`},
	{"open a vsock", `$TOOL -attack socket 40 1 0`},
	{"list everybody's connections", `$TOOL -attack socket 16 3 4`},
	{"listen for neighbours", `$TOOL -attack listen`},
	{"listen without a port", `$TOOL -attack autolisten`},
	{"set the clock", `date -s "$(date)"`},
	{"name the machine", `hostname "$(hostname)"`},
}

// abilities are what a tenant has to be able to do, in the same way.
func abilities() []attempt {
	if nameserver() == "" {
		return ownAbilities
	}
	return append([]attempt{{"resolve names", `getent ahostsv4 somebody.example | grep 127.0.0.1`}}, ownAbilities...)
}

var ownAbilities = []attempt{
	{"connect to where it may", `$TOOL -attack tcp 127.0.0.1 443`},
	{"use its own files", `echo hi > own && grep hi own && mkdir -p d && mv own d/ && rm -r d`},
	{"use its home and its temp folder", `touch ~/x $TMPDIR/x && rm ~/x $TMPDIR/x`},
	{"signal its own", `sleep 10 & kill -9 $!`},
	{"use pipes of bash", `cat <(echo hi) | grep hi`},
	{"reach the broker", `$TOOL -attack tcp 127.0.0.1 ${ANTHROPIC_BASE_URL##*:}`},
	{"run git", `git init -q repository && cd repository && git add . && git -c user.name=b -c user.email=b@b commit -qm x --allow-empty`},
}

// init makes the test binary the tool with which a tenant makes the attempts a shell can't.
func init() {
	if len(os.Args) < 3 || os.Args[1] != "-attack" {
		return
	}
	if err := tools[os.Args[2]](os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var tools = map[string]func(args []string) error{
	"tcp":   func(a []string) error { return exchange(a, unix.SOCK_STREAM, 0, connect) },
	"mptcp": func(a []string) error { return exchange(a, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, connect) },
	"udp":   func(a []string) error { return exchange(a, unix.SOCK_DGRAM, 0, connect) },
	"fastopen": func(a []string) error {
		return exchange(a, unix.SOCK_STREAM, 0, func(fd int, to unix.Sockaddr) error {
			return unix.Sendto(fd, nil, unix.MSG_FASTOPEN, to)
		})
	},
	"fastopen-connect": func(a []string) error {
		return exchange(a, unix.SOCK_STREAM, 0, func(fd int, to unix.Sockaddr) error {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
				return err
			}
			return unix.Connect(fd, to)
		})
	},
	"broker": func(a []string) error { return askBroker(a[0], a[1]) },
	"ptrace": func(a []string) error { return raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, number(a[0])) },
	"vmread": func(a []string) error {
		vector := unix.Iovec{Base: new(byte), Len: 1}
		err := raw(unix.SYS_PROCESS_VM_READV, number(a[0]), uintptr(unsafe.Pointer(&vector)), 1, uintptr(unsafe.Pointer(&vector)), 1)
		if err == unix.EFAULT {
			return nil // looked at, but nothing is there
		}
		return err
	},
	"getfd": func(a []string) error {
		fd, err := unix.PidfdOpen(int(number(a[0])), 0)
		if err != nil {
			return err
		}
		return raw(unix.SYS_PIDFD_GETFD, uintptr(fd), 0, 0)
	},
	"prlimit": func(a []string) error { return unix.Prlimit(int(number(a[0])), unix.RLIMIT_CORE, &unix.Rlimit{}, nil) },
	"renice":  func(a []string) error { return unix.Setpriority(unix.PRIO_PROCESS, int(number(a[0])), 1) },
	"affinity": func(a []string) error {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(int(number(a[0])), &set); err != nil {
			return err
		}
		return unix.SchedSetaffinity(int(number(a[0])), &set)
	},
	"uid0": func([]string) error {
		if unix.Geteuid() != 0 {
			return unix.EPERM
		}
		return nil
	},
	"inotify": func(a []string) error {
		fd, err := unix.InotifyInit()
		if err != nil {
			return err
		}
		_, err = unix.InotifyAddWatch(fd, a[0], unix.IN_ALL_EVENTS)
		return err
	},
	"bpf": func([]string) error {
		attr := [18]uint32{2, 4, 4, 1} // an array of one
		return raw(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	},
	"io_uring": func([]string) error {
		var params [120]byte
		return raw(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
	},
	"eat": func([]string) error { // memory, until somebody stops it
		var eaten [][]byte
		for len(eaten) < 40 {
			block := make([]byte, 64<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			eaten = append(eaten, block)
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		return nil
	},
	"keyctl": func([]string) error { return raw(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING) },
	"perf": func([]string) error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK}
		_, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		return err
	},
	"shm": func([]string) error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
		if err != nil {
			return err
		}
		_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		return err
	},
	"socket": func(a []string) error {
		_, err := unix.Socket(int(number(a[0])), int(number(a[1])), int(number(a[2])))
		return err
	},
	"listen": func([]string) error {
		_, err := net.Listen("tcp4", "0.0.0.0:0")
		return err
	},
	"autolisten": func([]string) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	},
}

func number(text string) uintptr {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return uintptr(n)
}

func raw(call uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(call, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func connect(fd int, to unix.Sockaddr) error { return unix.Connect(fd, to) }

// exchange reaches host and port, and succeeds when something is said there.
func exchange(args []string, kind, protocol int, open func(fd int, to unix.Sockaddr) error) error {
	fd, err := unix.Socket(unix.AF_INET, kind, protocol)
	if err != nil {
		return err
	}
	to := &unix.SockaddrInet4{Port: int(number(args[1]))}
	copy(to.Addr[:], net.ParseIP(args[0]).To4())
	if err := open(fd, to); err != nil {
		return err
	}
	patience := unix.NsecToTimeval((2 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return err
	}
	n, err := unix.Read(fd, make([]byte, 100))
	if err == nil && n == 0 {
		return unix.ECONNRESET
	}
	return err
}

// askBroker makes an API call with a process's secret.
func askBroker(url, secret string) error {
	const body = `{"model":"haiku","max_tokens":1,"messages":[{"role":"user","content":"hello"}]}`
	request, err := http.NewRequest(http.MethodPost, url+"/v1/messages", strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+secret)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}
