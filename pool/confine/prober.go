package confine

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What this program is when the probe starts it as a child, by its first argument.
const (
	roleProber = "claudepool-prober"
	roleVictim = "claudepool-victim"
)

// targets are what a prober goes for.
type targets struct {
	Service, Victim       int // pids
	ServiceUID, VictimUID int
	Program               string // must be within reach
	Folder                string // the instance's
	Secret                string // a file of the victim's
	Port                  int    // the victim alone may connect to, on loopback
	Abstract              string // a socket of the service's
	Listens               bool   // children may
	Forbidden             string // host:port of a server that is none of theirs; empty: there is none
}

func init() {
	if len(os.Args) != 3 {
		return
	}
	switch os.Args[1] {
	case roleVictim:
		_, _ = io.Copy(io.Discard, os.Stdin)
	case roleProber:
		if err := probe(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		return
	}
	os.Exit(0)
}

func probe(text string) error {
	var t targets
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return err
	}
	if err := unix.Access(t.Program, unix.X_OK); err != nil {
		return fmt.Errorf("children can't execute %s: %w", t.Program, err)
	}
	return json.NewEncoder(os.Stdout).Encode(t.tryAll())
}

// attempt returns nil if it got through.
type attempt struct {
	name string
	try  func() error
}

// tryAll makes all attempts.
func (t targets) tryAll() Report {
	report := Report{}
	for protection, attempts := range map[string][]attempt{
		ProtectionUID: t.uidAttempts(), ProtectionFiles: t.fileAttempts(), ProtectionNetwork: t.networkAttempts(),
		ProtectionSyscalls: t.syscallAttempts(), ProtectionLimits: limitAttempts(), ProtectionSignals: t.signalAttempts(),
	} {
		report[protection] = []string{}
		for _, a := range attempts {
			if a.try() == nil {
				report[protection] = append(report[protection], a.name)
			}
		}
	}
	return report
}

// refused turns a finding into an attempt's outcome.
func refused(inForce bool) error {
	if inForce {
		return unix.EPERM
	}
	return nil
}

func (t targets) uidAttempts() []attempt {
	return []attempt{
		{"runs under the service's uid", func() error {
			return refused(unix.Getuid() != t.ServiceUID && unix.Getgid() != 0)
		}},
		{"runs under another's uid", func() error { return refused(unix.Getuid() != t.VictimUID) }},
		{"is in groups", func() error {
			groups, err := unix.Getgroups()
			return refused(err == nil && len(groups) == 0)
		}},
		{"can get privileges by executing a program", func() error {
			set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
			return refused(err == nil && set == 1)
		}},
		{"has capabilities", func() error { return refused(hasNoCapabilities()) }},
		{"becomes root", func() error { return unix.Setresuid(0, 0, 0) }},
	}
}

func hasNoCapabilities() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil || data != [2]unix.CapUserData{} {
		return false
	}
	for capability := uintptr(0); ; capability++ {
		switch has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0); {
		case err != nil:
			return true // beyond the last
		case has != 0:
			return false
		}
	}
}

func (t targets) fileAttempts() []attempt {
	open := func(path string, flags int) func() error {
		return func() error {
			f, err := os.OpenFile(path, flags, 0o600) // #nosec G304 -- what the probe is to try
			if err != nil {
				return err
			}
			if flags&os.O_CREATE != 0 {
				_ = os.Remove(path)
			}
			return f.Close()
		}
	}
	proc := fmt.Sprintf("/proc/%d/", t.Victim)
	return []attempt{
		{"reads another's file", open(t.Secret, os.O_RDONLY)},
		{"writes another's file", open(t.Secret, os.O_WRONLY)},
		{"lists another's folder", open(filepath.Dir(t.Secret), os.O_RDONLY)},
		{"lists the instance's folder", open(t.Folder, os.O_RDONLY)},
		{"writes to the instance's folder", open(filepath.Join(t.Folder, "probe"), os.O_WRONLY|os.O_CREATE)},
		{"writes to /tmp", open(filepath.Join("/tmp", filepath.Base(filepath.Dir(t.Secret))),
			os.O_WRONLY|os.O_CREATE|os.O_EXCL)},
		{"lists /tmp", open("/tmp", os.O_RDONLY)},
		{"lists /proc", open("/proc", os.O_RDONLY)},
		{"reads another's command line", open(proc+"cmdline", os.O_RDONLY)},
		{"reads another's environment", open(proc+"environ", os.O_RDONLY)},
		{"reads another's memory", open(proc+"mem", os.O_RDONLY)},
		{"reads the service's environment", open(fmt.Sprintf("/proc/%d/environ", t.Service), os.O_RDONLY)},
		{"lists the machine's connections", open("/proc/self/net/tcp", os.O_RDONLY)},
		{"reads the passwords", open("/etc/shadow", os.O_RDONLY)},
	}
}

func (t targets) signalAttempts() []attempt {
	return []attempt{
		{"signals another's process", func() error { return unix.Kill(t.Victim, 0) }},
		{"signals the service", func() error { return unix.Kill(t.Service, 0) }},
		{"connects to an abstract socket", func() error {
			conn, err := net.Dial("unix", t.Abstract)
			if err == nil {
				conn.Close()
			}
			return err
		}},
	}
}

func limitAttempts() []attempt {
	above := func(resource int, most uint64) func() error {
		return func() error {
			var limit unix.Rlimit
			err := unix.Getrlimit(resource, &limit)
			return refused(err == nil && limit.Max <= most)
		}
	}
	return []attempt{
		{"dumps core", above(unix.RLIMIT_CORE, 0)},
		{"opens too many files", above(unix.RLIMIT_NOFILE, maxFiles)},
		{"writes too large files", above(unix.RLIMIT_FSIZE, maxFileSize)},
		{"starts too many processes", above(unix.RLIMIT_NPROC, MostProcesses)},
		{"locks memory", above(unix.RLIMIT_MEMLOCK, maxLocked)},
		{"leaves signals waiting", above(unix.RLIMIT_SIGPENDING, maxSignals)},
		{"takes a higher priority", above(unix.RLIMIT_NICE, 0)},
	}
}

// call makes a system call. That it is denied is told by the error: these are called with arguments that the kernel
// refuses for other reasons where the call itself is allowed.
func call(number uintptr, arguments ...uintptr) func() error {
	var a [6]uintptr
	copy(a[:], arguments)
	return func() error {
		_, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == unix.EPERM || errno == unix.ENOSYS {
			return errno
		}
		return nil
	}
}

func (t targets) syscallAttempts() []attempt {
	const bad = ^uintptr(0) // no address, and no file
	return []attempt{
		{"io_uring", call(unix.SYS_IO_URING_SETUP, 1, bad)},
		{"ptrace", call(unix.SYS_PTRACE, unix.PTRACE_PEEKDATA, uintptr(os.Getpid()))},
		{"process_vm_readv", call(unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid()))},
		{"pidfd_getfd", call(unix.SYS_PIDFD_GETFD, bad)},
		{"keyctl", call(unix.SYS_KEYCTL, bad)},
		{"bpf", call(unix.SYS_BPF, bad)},
		{"userfaultfd", call(unix.SYS_USERFAULTFD, bad)},
		{"perf_event_open", call(unix.SYS_PERF_EVENT_OPEN, bad)},
		{"unshare", call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
		{"unshare without flags", call(unix.SYS_UNSHARE, 0)},
		{"setns", call(unix.SYS_SETNS, bad)},
		{"mount", call(unix.SYS_MOUNT, bad)},
		{"chroot", call(unix.SYS_CHROOT, bad)},
		{"clone into a namespace", call(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_SIGHAND)},
		{"clone3", call(unix.SYS_CLONE3, bad, 1)},
		{"System V shared memory", call(unix.SYS_SHMGET, 1, 0)},
		{"message queues", call(unix.SYS_MQ_OPEN, bad)},
		{"memory in files without a name", call(unix.SYS_MEMFD_CREATE, bad)},
		{"memory in pipes", call(unix.SYS_VMSPLICE, bad)},
		{"type into a terminal", call(unix.SYS_IOCTL, bad, unix.TIOCSTI)},
	}
}

func (t targets) networkAttempts() []attempt {
	loopback := &unix.SockaddrInet4{Port: t.Port, Addr: [4]byte{127, 0, 0, 1}}
	loopback6 := &unix.SockaddrInet6{Port: t.Port, Addr: [16]byte{10: 0xff, 11: 0xff, 12: 127, 15: 1}}
	attempts := []attempt{
		{"TCP to another's port", with(unix.AF_INET, unix.SOCK_STREAM, 0,
			func(fd int) error { return unix.Connect(fd, loopback) })},
		{"TCP over IPv6", with(unix.AF_INET6, unix.SOCK_STREAM, 0,
			func(fd int) error { return unix.Connect(fd, loopback6) })},
		{"multipath TCP", with(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP,
			func(fd int) error { return unix.Connect(fd, loopback) })},
		{"TCP fast open by its first message", with(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) error {
			return unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, loopback)
		})},
		{"TCP fast open by option", with(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		})},
		{"taking a port", with(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		})},
	}
	if t.Forbidden != "" {
		attempts = append(attempts, attempt{"the metrics", t.dialForbidden})
	}
	if !t.Listens {
		attempts = append(attempts, attempt{"listening on any port", with(unix.AF_INET, unix.SOCK_STREAM, 0,
			func(fd int) error {
				return unix.Listen(fd, 1)
			})})
	}
	opened := func(int) error { return nil }
	for _, s := range []struct {
		name                   string
		domain, kind, protocol int
	}{
		{"UDP", unix.AF_INET, unix.SOCK_DGRAM, 0}, {"UDP over IPv6", unix.AF_INET6, unix.SOCK_DGRAM, 0},
		{"raw sockets", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, {"ping sockets", unix.AF_INET, unix.SOCK_DGRAM,
			unix.IPPROTO_ICMP},
		{"SCTP", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, {"packet sockets", unix.AF_PACKET, unix.SOCK_RAW, 0},
		{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0}, {"netlink beyond routes", unix.AF_NETLINK, unix.SOCK_RAW,
			unix.NETLINK_SOCK_DIAG},
		{"local datagrams", unix.AF_UNIX, unix.SOCK_DGRAM, 0}, {"the kernel's ciphers", unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
	} {
		attempts = append(attempts, attempt{s.name, with(s.domain, s.kind, s.protocol, opened)})
	}
	return attempts
}

// with opens a socket and does something with it.
func with(domain, kind, protocol int, do func(fd int) error) func() error {
	return func() error {
		fd, err := unix.Socket(domain, kind, protocol)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return do(fd)
	}
}
