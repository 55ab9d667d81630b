// Command attack is the tool with which a tenant of the tests makes the attempts that a shell can't. Its first argument
// says which; it succeeds if it got through.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"claudepool/pool/pooltest/hold"
)

func main() {
	if len(os.Args) < 2 || attacks[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "attack: no such attack")
		os.Exit(2)
	}
	if err := attacks[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

// litterMost is how many files are littered at most.
const litterMost = 1_000_000

var attacks = map[string]func(args []string) error{
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
	"ports": takePorts,
	"get": func(a []string) error {
		response, err := http.Get(a[0])
		if err == nil && response.StatusCode != http.StatusOK {
			err = errors.New(response.Status)
		}
		return err
	},
	"broker": func(a []string) error { return askBroker(a[0], a[1]) },
	"ptrace": func(a []string) error { return raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, number(a[0])) },
	"vmread": func(a []string) error {
		vector := unix.Iovec{Base: new(byte), Len: 1}
		err := raw(unix.SYS_PROCESS_VM_READV, number(a[0]), uintptr(unsafe.Pointer(&vector)), 1,
			uintptr(unsafe.Pointer(&vector)), 1)
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
	"hold": hold.Main, // memory, in a way and so many MiB
	// Busy processes, each in a session of its own, for which some kernels would give it a share of its own.
	"spin": func(a []string) error {
		for range int(number(a[0])) {
			busy := exec.Command("/bin/sh", "-c", "while :; do :; done")
			busy.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := busy.Start(); err != nil {
				return err
			}
		}
		time.Sleep(time.Minute)
		return nil
	},
	"litter": func([]string) error { // a million files, unless somebody stops it
		if err := os.MkdirAll("litter", 0o700); err != nil {
			return err
		}
		for i := range litterMost {
			if err := os.WriteFile("litter/"+strconv.Itoa(i), nil, 0o600); err != nil {
				return err
			}
		}
		return nil
	},
	"nest": func(a []string) error { // folders, one in the other
		for range number(a[0]) {
			if err := os.Mkdir("nest", 0o700); err != nil {
				return err
			}
			if err := os.Chdir("nest"); err != nil {
				return err
			}
		}
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

func address(host, port string) *unix.SockaddrInet4 {
	to := &unix.SockaddrInet4{Port: int(number(port))}
	copy(to.Addr[:], net.ParseIP(host).To4())
	return to
}

// takePorts opens connections to host:port until there is nothing left to open them with, writes their number into the
// file "held", and keeps them.
func takePorts(args []string) error {
	host, port, err := net.SplitHostPort(args[0])
	if err != nil {
		return err
	}
	held := 0
	for ; ; held++ {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err == nil {
			err = unix.Connect(fd, address(host, port))
		}
		if err != nil && err != unix.EINPROGRESS {
			break
		}
	}
	if err := os.WriteFile("held", []byte(strconv.Itoa(held)), 0o600); err != nil {
		return err
	}
	time.Sleep(time.Minute)
	return nil
}

// exchange reaches host and port, and succeeds when something is said there.
func exchange(args []string, kind, protocol int, open func(fd int, to unix.Sockaddr) error) error {
	fd, err := unix.Socket(unix.AF_INET, kind, protocol)
	if err != nil {
		return err
	}
	to := address(args[0], args[1])
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
