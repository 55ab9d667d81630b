// Package hold takes memory in ways of which not all show in what a process is said to have, for tests that somebody
// counts it or denies it. It is Linux only.
package hold

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	step  = 1 << 20 // bytes
	parts = 16      // processes that it is spread over
)

// Ways are the ways, by name. Each returns when so many bytes are taken; they are until the process ends.
var Ways = map[string]func(bytes int) error{
	"private":    func(bytes int) error { return fill(bytes, unix.MAP_PRIVATE, false) },
	"spread":     spread,
	"shared":     func(bytes int) error { return fill(bytes, unix.MAP_SHARED, false) },
	"unmapped":   func(bytes int) error { return fill(bytes, unix.MAP_SHARED, true) },
	"memfd":      memfd,
	"sockets":    func(bytes int) error { return sockets(bytes, unix.SOCK_STREAM, 32<<10) },
	"packets":    func(bytes int) error { return sockets(bytes, unix.SOCK_SEQPACKET, 1) },
	"datagrams":  func(bytes int) error { return sockets(bytes, unix.SOCK_DGRAM, 0) },
	"tables":     pageTables,
	"pipes":      pipes,
	"range":      unsharedFiles,
	"thread":     threadWithFiles,
	"threadless": func(bytes int) error { return fill(bytes, unix.MAP_PRIVATE, false) }, // see Main
}

// Main takes so many MiB in a way, says "held" and waits. Its arguments are the way and the number.
func Main(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	way := Ways[args[0]]
	if way == nil {
		return fmt.Errorf("no way called %q", args[0])
	}
	if err := way(n * step); err != nil {
		return err
	}
	fmt.Println("held")
	if args[0] == "threadless" { // without its first thread a process looks as if it had ended
		onFirstThread(func() { _, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0) })
	}
	time.Sleep(time.Hour)
	return nil
}

// onFirstThread runs f on the process's first thread, which Go has for whatever goroutine comes along.
func onFirstThread(f func()) {
	for {
		tried := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			first := unix.Gettid() == unix.Getpid()
			close(tried)
			if first {
				f()
			}
			select {} // another goroutine is on another thread
		}()
		<-tried
		if thread, err := os.ReadFile("/proc/self/stat"); err != nil || bytes.Contains(thread, []byte(") Z ")) {
			return
		}
	}
}

// fill writes to memory, and then may take it out of what the process has mapped.
func fill(bytes, flags int, hide bool) error {
	memory, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|flags)
	if err != nil {
		return err
	}
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	if hide {
		return unix.Madvise(memory, unix.MADV_DONTNEED)
	}
	return nil
}

// spread has other processes take a part each.
func spread(bytes int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for range parts {
		args := append(os.Args[1:len(os.Args)-2:len(os.Args)-2], "private", strconv.Itoa(bytes/parts/step))
		part := exec.Command(self, args...)
		out, err := part.StdoutPipe()
		if err != nil {
			return err
		}
		if err := part.Start(); err != nil {
			return err
		}
		if _, err := out.Read(make([]byte, 10)); err != nil {
			return err
		}
	}
	return nil
}

// pipes makes them as large as they can be.
func pipes(bytes int) error {
	for ; bytes > 0; bytes -= step {
		var ends [2]int
		if err := unix.Pipe(ends[:]); err != nil {
			return err
		}
		if _, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, step); err != nil {
			return err
		}
		if _, err := unix.Write(ends[1], make([]byte, step)); err != nil {
			return err
		}
	}
	return nil
}

// unsharedFiles has a thread keep its open files to itself.
func unsharedFiles(int) error {
	runtime.LockOSThread()
	const none = 1 << 20
	return unix.CloseRange(none, none, unix.CLOSE_RANGE_UNSHARE)
}

// threadWithFiles begins a thread that does. It has no stack: where it may begin, all of it ends.
func threadWithFiles(int) error {
	const flags = unix.CLONE_VM | unix.CLONE_SIGHAND | unix.CLONE_THREAD
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE, flags, 0, 0)
	return errno
}

// memfd writes to a file that has no place.
func memfd(bytes int) error {
	fd, err := unix.MemfdCreate("hold", 0)
	if err != nil {
		return err
	}
	block := make([]byte, step)
	for range bytes / step {
		if _, err := unix.Write(fd, block); err != nil {
			return err
		}
	}
	return nil
}

// sockets fills pairs of sockets with messages, asks for large buffers, and closes the ends that have written.
func sockets(bytes, kind, size int) error {
	message := make([]byte, size)
	for taken := 0; taken < bytes; {
		pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<20)
		for unix.Send(pair[0], message, 0) == nil {
		}
		buffer, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUF)
		if err != nil {
			return err
		}
		taken += buffer
		unix.Close(pair[0])
	}
	return nil
}

// pageTables maps an empty file again and again, and reads one page of each 2 MiB: what that takes is the tables that
// say where it is.
func pageTables(bytes int) error {
	const reach, length = 2 << 20, 1 << 30
	file, err := os.CreateTemp(".", "hold")
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(length); err != nil {
		return err
	}
	for range bytes / 4096 / (length / reach) {
		memory, err := unix.Mmap(int(file.Fd()), 0, length, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		if err := unix.Madvise(memory, unix.MADV_RANDOM); err != nil { // or much of the file would be read
			return err
		}
		for i := 0; i < length; i += reach {
			atomic.LoadUint32((*uint32)(unsafe.Pointer(&memory[i])))
		}
	}
	return nil
}
