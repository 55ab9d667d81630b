package confine

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shimName is what the service is called when it is executed once more to confine itself and setUID a child. What has
// to be given up can only be given up by the process itself, and a process of its own does it in plain order.
const shimName = "claudepool-confine"

// plan is what a shim gets to know.
type plan struct {
	Parent     int    // pid of the service
	UID        int    // and gid; 0 to stay what the service is
	Workspace  string // what may be written to
	Mount      string // where it finds that; empty for where it is
	Dir        string
	Program    string
	Connect    []uint16
	Bind       []uint16
	BestEffort bool // go on where a protection can't be had
}

// init makes every program that has a Launcher its own shim, tests as well. Being an init, it runs before anything else
// of the program, which keeps it quick, and no main can forget it.
func init() {
	if len(os.Args) < 3 || os.Args[0] != shimName {
		return
	}
	runtime.LockOSThread() // all that follows is the thread's own, and exec keeps the calling thread's
	var p plan
	err := json.Unmarshal([]byte(os.Args[1]), &p)
	if err == nil {
		err = p.confine()
	}
	if err == nil {
		err = syscall.Exec(p.Program, os.Args[2:], os.Environ()) // #nosec G204 G702 -- this is what the shim is for
	}
	fmt.Fprintln(os.Stderr, "confine:", err)
	os.Exit(126)
}

// confine gives up step by step what the child may not have. The order matters: each step needs what later ones take.
func (p plan) confine() error {
	for _, step := range []struct {
		name     string
		do       func() error
		optional bool
	}{
		{"mount", p.mount, false},
		{"limits", p.limit, p.BestEffort},
		{"capabilities", dropBounding, p.UID == 0},
		{"uid", p.setUID, false},
		{"capabilities", dropCapabilities, false},
		{"parent", p.setPdeathsig, false},
		{"folder", func() error { return unix.Chdir(p.Dir) }, false},
		{"no_new_privs", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, false},
		{"landlock", p.restrict, false},
		{"seccomp", p.filterSyscalls, p.BestEffort},
	} {
		if err := step.do(); err != nil && !step.optional {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// Limits of a child. Those of a process hold for each of them, that of processes for all of the uid together.
const (
	maxFiles      = 4 << 10  // see MostFiles as well
	maxFileSize   = 1 << 30  // bytes
	MostProcesses = 512      // threads count
	maxLocked     = 64 << 10 // bytes, which can't be dropped when memory is short, and aren't counted
	maxSignals    = 4 << 10  // that wait, and timers
)

func (p plan) limit() error {
	limits := map[int]uint64{
		unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: maxFiles, unix.RLIMIT_FSIZE: maxFileSize, unix.RLIMIT_MSGQUEUE: 0,
		unix.RLIMIT_MEMLOCK: maxLocked, unix.RLIMIT_SIGPENDING: maxSignals, unix.RLIMIT_NICE: 0, unix.RLIMIT_RTPRIO: 0,
	}
	if p.UID != 0 { // else it would count what the service itself has running
		limits[unix.RLIMIT_NPROC] = MostProcesses
	}
	for resource, most := range limits {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(resource, &now); err != nil {
			return err
		}
		most = min(most, now.Max)
		// The package syscall's call, as its Exec else puts back what Go has changed at its start.
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
			return err
		}
	}
	return nil
}

// setUID takes the child's uid and gid and no groups. The plain system calls change the calling thread alone; Go's own
// would change the others too, which are about to vanish.
func (p plan) setUID() error {
	if p.UID == 0 {
		return nil
	}
	id := uintptr(p.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
		return errno
	}
	return nil
}

// dropBounding empties the set of capabilities that a program could ever get by being executed.
func dropBounding() error {
	for capability := uintptr(0); ; capability++ {
		has, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, capability, 0)
		if errno != 0 {
			return nil // beyond the last one that this kernel knows
		}
		if has == 0 {
			continue
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0); errno != 0 {
			return errno
		}
	}
}

func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// setPdeathsig asks once more for the signal at the parent's end: a change of the uid takes it back.
func (p plan) setPdeathsig() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	if unix.Getppid() != p.Parent {
		return fmt.Errorf("process %d has ended", p.Parent)
	}
	return nil
}

// filterSyscalls puts the calling thread under the filter.
func (p plan) filterSyscalls() error {
	program, err := syscallFilter(len(p.Bind) > 0)
	if err != nil {
		return err
	}
	// #nosec G115 -- shorter than the kernel's 4096
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0,
		uintptr(unsafe.Pointer(&fprog))); errno != 0 { // #nosec G103 -- the kernel wants the address
		return errno
	}
	return nil
}
