package confine

import (
	"fmt"
	"runtime"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// forbidden are system calls that no tool of an agent needs and that reach past the other protections or into rarely
// used parts of the kernel.
var forbidden = []uint32{
	// io_uring does what the filter would have to see.
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// Other processes' insides.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE,
	unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	// What outlives a process and is found again by its uid.
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_SHMGET, unix.SYS_MSGGET, unix.SYS_SEMGET,
	unix.SYS_MQ_OPEN,
	// Namespaces and mounts.
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK,
	unix.SYS_MOUNT_SETATTR, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
	// The machine.
	unix.SYS_BPF, unix.SYS_SYSLOG, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE,
	unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT,
	unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_SETHOSTNAME,
	unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP,
}

// newNamespace are the flags of clone that begin a namespace.
const newNamespace = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// notStream are bits of a socket's type that none but a stream's lacks.
const notStream = 0xe

// absent are system calls that are answered as if the kernel didn't have them, so that programs fall back to others.
var absent = []uint32{
	unix.SYS_CLONE3, // its flags are out of sight
	// Memory that no limit counts: in files without a name or a place, which can be hidden in a socket, in a pipe that
	// holds far larger pages than it counts, and in what the kernel itself can't look at.
	unix.SYS_MEMFD_CREATE, unix.SYS_VMSPLICE, unix.SYS_MEMFD_SECRET,
}

// restricted are system calls with arguments that are forbidden. Landlock looks at plain TCP's connect alone, so that
// is the one way out: no other protocol, and no data that travels with the connection's first packet.
var restricted = []restriction{
	{unix.SYS_SOCKET, []condition{{0, isNot, unix.AF_UNIX}, {0, isNot, unix.AF_INET}, {0, isNot, unix.AF_INET6},
		{0, isNot, unix.AF_NETLINK}}},
	// tells programs the machine's addresses
	{unix.SYS_SOCKET, []condition{{0, is, unix.AF_NETLINK}, {2, isNot, unix.NETLINK_ROUTE}}},
	{unix.SYS_SOCKET, []condition{{0, is, unix.AF_INET}, {1, has, notStream}}},
	{unix.SYS_SOCKET, []condition{{0, is, unix.AF_INET6}, {1, has, notStream}}},
	{unix.SYS_SOCKET, []condition{{0, is, unix.AF_INET}, {2, isNot, 0}, {2, isNot, unix.IPPROTO_TCP}}},
	{unix.SYS_SOCKET, []condition{{0, is, unix.AF_INET6}, {2, isNot, 0}, {2, isNot, unix.IPPROTO_TCP}}},
	{unix.SYS_SOCKETPAIR, []condition{{0, isNot, unix.AF_UNIX}}},
	// Datagrams of many senders can wait at one address, so that nobody could tell how much memory that takes.
	{unix.SYS_SOCKET, []condition{{0, is, unix.AF_UNIX}, {1, has, unix.SOCK_DGRAM}}},
	{unix.SYS_SOCKETPAIR, []condition{{1, has, unix.SOCK_DGRAM}}},
	{unix.SYS_SENDTO, []condition{{3, has, unix.MSG_FASTOPEN}}},
	{unix.SYS_SENDMSG, []condition{{2, has, unix.MSG_FASTOPEN}}},
	{unix.SYS_SENDMMSG, []condition{{3, has, unix.MSG_FASTOPEN}}},
	{unix.SYS_SETSOCKOPT, []condition{{1, is, unix.IPPROTO_TCP}, {2, is, unix.TCP_FASTOPEN_CONNECT}}},
	{unix.SYS_SETSOCKOPT, []condition{{1, is, unix.IPPROTO_TCP}, {2, is, unix.TCP_FASTOPEN}}},
	{unix.SYS_SETSOCKOPT, []condition{{1, is, unix.IPPROTO_TCP}, {2, is, unix.TCP_ULP}}}, // turns it into another protocol
	{unix.SYS_CLONE, []condition{{0, has, newNamespace}}},
	// What a thread has open that shares nothing with its process's main one is shown nowhere that is looked at.
	{unix.SYS_CLONE, []condition{{0, has, unix.CLONE_THREAD}, {0, lacks, unix.CLONE_FILES}}},
	{unix.SYS_CLOSE_RANGE, []condition{{2, has, unix.CLOSE_RANGE_UNSHARE}}},
	{unix.SYS_FCNTL, []condition{{1, is, unix.F_SETPIPE_SZ}}}, // a pipe counts as what it holds by itself
	{unix.SYS_IOCTL, []condition{{1, is, unix.TIOCSTI}}},      // types into somebody else's terminal
}

// ignored do nothing, and say that they have: a socket's buffer stays as large as it is, whatever a program would like
// it to be. What it may hold is counted by that.
var ignored = []restriction{
	{unix.SYS_SETSOCKOPT, []condition{{1, is, unix.SOL_SOCKET}, {2, is, unix.SO_SNDBUF}}},
	{unix.SYS_SETSOCKOPT, []condition{{1, is, unix.SOL_SOCKET}, {2, is, unix.SO_RCVBUF}}},
}

type restriction struct {
	call uint32
	when []condition // all of them
}

// condition looks at the lower half of an argument: all arguments in question are ints, of which the kernel drops the
// upper half, so that a value there hides nothing.
type condition struct {
	argument uint32
	test     bpf.JumpTest // of what makes the condition false
	value    uint32
}

const (
	is    = bpf.JumpNotEqual
	isNot = bpf.JumpEqual
	has   = bpf.JumpBitsNotSet
	lacks = bpf.JumpBitsSet
)

// Offsets in struct seccomp_data, on little-endian machines.
const (
	callOffset     = 0
	archOffset     = 4
	argumentOffset = 16
	argumentSize   = 8
)

var (
	allowed = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	denied  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	// pretended is an error that is none.
	pretended = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO}
	// unknown makes programs fall back to other calls.
	unknown = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
)

// architectures are by what the kernel tells a filter which table of system calls is meant. On one machine there is
// more than one: a program for 32 bits has numbers of its own, and on x86-64 there is a third kind, with a bit set.
var architectures = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

const x32Bit = 0x40000000

// syscallFilter returns the filter as the kernel takes it. Without listen no socket can be listened on, none in the
// file system either: to listen without having bound takes any free TCP port, and Landlock doesn't see it.
func syscallFilter(listen bool) ([]unix.SockFilter, error) {
	arch, ok := architectures[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no filter for %s", runtime.GOARCH)
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1},
		unknown,
		bpf.LoadAbsolute{Off: callOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1},
		unknown,
	}
	for _, call := range absent {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: 1}, unknown)
	}
	for _, call := range forbidden {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: 1}, denied)
	}
	if !listen {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_LISTEN, SkipTrue: 1}, denied)
	}
	for _, r := range restricted {
		program = append(program, r.instructions(denied)...)
	}
	for _, r := range ignored {
		program = append(program, r.instructions(pretended)...)
	}
	program = append(program, allowed)

	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter, nil
}

// instructions stand on their own: they load what they look at, and where they don't answer they go on at their end.
func (r restriction) instructions(answer bpf.Instruction) []bpf.Instruction {
	rest := uint8(2*len(r.when) + 1) // #nosec G115 -- a handful
	block := []bpf.Instruction{
		bpf.LoadAbsolute{Off: callOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: r.call, SkipTrue: rest},
	}
	for _, c := range r.when {
		rest -= 2
		block = append(block,
			bpf.LoadAbsolute{Off: argumentOffset + argumentSize*c.argument, Size: 4},
			bpf.JumpIf{Cond: c.test, Val: c.value, SkipTrue: rest})
	}
	return append(block, answer)
}
