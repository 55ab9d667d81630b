package confine

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketUse is what the sockets of one uid are, wherever they are: one that has been sent through another belongs to no
// process for the time.
type socketUse struct {
	local int   // how many in no network
	tcp   int64 // bytes in buffers
}

// What the package unix lacks of linux/unix_diag.h, linux/inet_diag.h and linux/sock_diag.h.
const (
	showUID               = 0x40    // UDIAG_SHOW_UID
	attrUID               = 7       // UNIX_DIAG_UID
	attrMemory            = 7       // INET_DIAG_SKMEMINFO
	localHead, inetHead   = 16, 72  // sizes of struct unix_diag_msg and inet_diag_msg
	inetUID               = 64      // in the latter
	received, sent, spare = 0, 5, 4 // SK_MEMINFO_RMEM_ALLOC, _WMEM_QUEUED, _FWD_ALLOC
	allStates             = ^uint32(0)
)

// socketsByUID asks the kernel for all sockets there are. What it doesn't tell isn't counted.
func socketsByUID() map[int]socketUse {
	use := make(map[int]socketUse)
	local := make([]byte, 24)
	local[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(local[4:], allStates)
	binary.NativeEndian.PutUint32(local[12:], showUID)
	dumpSockets(local, func(answer []byte) {
		if uid := attribute(answer, localHead, attrUID); len(uid) >= 4 {
			id := int(binary.NativeEndian.Uint32(uid))
			u := use[id]
			u.local++
			use[id] = u
		}
	})
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		inet := make([]byte, 56)
		inet[0], inet[1], inet[2] = family, unix.IPPROTO_TCP, 1<<(attrMemory-1)
		binary.NativeEndian.PutUint32(inet[4:], allStates)
		dumpSockets(inet, func(answer []byte) {
			memory := attribute(answer, inetHead, attrMemory)
			if len(memory) < 4*(sent+1) {
				return
			}
			id := int(binary.NativeEndian.Uint32(answer[inetUID:]))
			u := use[id]
			for _, field := range []int{received, sent, spare} {
				u.tcp += int64(binary.NativeEndian.Uint32(memory[4*field:]))
			}
			use[id] = u
		})
	}
	return use
}

// attribute finds one in an answer, behind its head.
func attribute(answer []byte, head int, kind uint16) []byte {
	for rest := answer[min(head, len(answer)):]; len(rest) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(rest))
		if size < unix.SizeofRtAttr || size > len(rest) {
			return nil
		}
		if binary.NativeEndian.Uint16(rest[2:]) == kind {
			return rest[unix.SizeofRtAttr:size]
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return nil
}

// dumpSockets calls visit with each answer to a question of sock_diag(7).
func dumpSockets(question []byte, visit func(answer []byte)) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	patience := unix.Timeval{Sec: 1}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
	message := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(question))
	binary.NativeEndian.PutUint32(message, uint32(cap(message))) // #nosec G115 -- a handful
	binary.NativeEndian.PutUint16(message[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if unix.Sendto(fd, append(message, question...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return
		}
		answers, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return
		}
		for _, answer := range answers {
			if answer.Header.Type != unix.SOCK_DIAG_BY_FAMILY { // the end, or an error
				return
			}
			visit(answer.Data)
		}
	}
}
