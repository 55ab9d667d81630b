package confine

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// neededCapabilities are the capabilities that the service needs where it is root: for its children's files, for what
// it turns a child into and what a child gives up, to end children and to see whose an orphan is, and for limits and
// priorities. For Confinement.Mount it needs CAP_SYS_ADMIN as well.
var neededCapabilities = []uint{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER,
	unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP,
	unix.CAP_KILL, unix.CAP_SYS_PTRACE,
	unix.CAP_SYS_RESOURCE, unix.CAP_SYS_NICE,
	unix.CAP_CHECKPOINT_RESTORE, // to see whose mapped memory is
}

// DropUnused gives up, for the whole process and all it starts, the capabilities that a service with Launchers doesn't
// use; mounts says whether its children's workspaces are mounted. None comes back, not even by executing a program as
// root. Without any it does nothing.
func DropUnused(mounts bool) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("confine: capabilities: %w", err)
	}
	var keep [2]uint32
	for _, capability := range neededCapabilities {
		keep[capability/32] |= 1 << (capability % 32)
	}
	if mounts {
		keep[0] |= 1 << unix.CAP_SYS_ADMIN
	}
	if have[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		if err := boundBy(keep); err != nil {
			return fmt.Errorf("confine: capabilities: %w", err)
		}
	}
	for i := range have {
		have[i].Permitted &= keep[i]
		have[i].Effective &= keep[i]
		have[i].Inheritable = 0
	}
	// Of a process the kernel knows threads only: each has capabilities of its own.
	// #nosec G103 -- the kernel wants the addresses
	_, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&have[0])), 0)
	return errnoError(errno)
}

// boundBy takes what isn't kept from what a program could ever get by being executed.
func boundBy(keep [2]uint32) error {
	for capability := uint(0); capability < 64; capability++ {
		if keep[capability/32]&(1<<(capability%32)) != 0 {
			continue
		}
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(capability), 0, 0, 0)
		if err != nil {
			return nil // beyond the last one that this kernel knows
		}
		if has == 0 {
			continue
		}
		if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0, 0); errno != 0 {
			return errno
		}
	}
	return nil
}

func errnoError(errno syscall.Errno) error {
	if errno != 0 {
		return fmt.Errorf("confine: capabilities: %w", errno)
	}
	return nil
}
