package confine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// environLimit bounds what is read of an environment, in bytes. The kernel's own limit is lower by default.
const environLimit = 4 << 20

const (
	// execPatience bounds how long a process may be in the midst of one exec or another.
	execPatience = time.Second
	execPause    = 10 * time.Millisecond
)

// identity tells a process from a later one with the same pid.
type identity struct {
	pid   int
	start uint64 // clock ticks since boot
}

// process is one look at /proc/<pid>/stat.
type process struct {
	identity
	ppid, pgrp, session int
	state               byte
	ticks               uint64 // processor time, with that of the children it has waited for
	environ             string // address of its environment; "0" amid an exec, of a zombie, and if we may not look
	name                string
}

func (p process) String() string { return fmt.Sprintf("pid %d (%s, state %c)", p.pid, p.name, p.state) }

// scan looks at every process of the machine and calls visit, unless it is nil, with each as soon as it is seen.
func scan(visit func(process)) ([]process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("confine: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("confine: %w", err)
	}
	var all []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := look(pid)
		if err != nil {
			continue // has just ended
		}
		if visit != nil {
			visit(p)
		}
		all = append(all, p)
	}
	return all, nil
}

// look reads one process. It fails if there is none.
func look(pid int) (process, error) {
	var buf [1024]byte
	n, err := readProc(pid, "stat", buf[:])
	if err != nil {
		return process{}, err
	}
	return parseStat(buf[:n])
}

// parseStat reads a line of /proc/<pid>/stat, whose second field may itself contain spaces and parentheses.
func parseStat(line []byte) (process, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 2 || end < open {
		return process{}, fmt.Errorf("confine: odd stat line %q", line)
	}
	const third = 3 // number of the first field after the name, as proc(5) counts
	fields := bytes.Fields(line[end+1:])
	if len(fields) <= 50-third || len(fields[0]) != 1 {
		return process{}, fmt.Errorf("confine: odd stat line %q", line)
	}
	p := process{state: fields[0][0], name: string(line[open+1 : end]), environ: string(fields[50-third])}
	var errs [9]error
	p.pid, errs[0] = strconv.Atoi(string(line[:open-1]))
	p.ppid, errs[1] = strconv.Atoi(string(fields[4-third]))
	p.pgrp, errs[2] = strconv.Atoi(string(fields[5-third]))
	p.session, errs[3] = strconv.Atoi(string(fields[6-third]))
	p.start, errs[4] = strconv.ParseUint(string(fields[22-third]), 10, 64)
	for i, field := range []int{14, 15, 16, 17} { // by itself and in the kernel, and that of the children
		var ticks uint64
		ticks, errs[5+i] = strconv.ParseUint(string(fields[field-third]), 10, 64) // #nosec G602 -- as many as there are
		p.ticks += ticks
	}
	return p, errors.Join(errs[:]...)
}

// exists says whether the process seen is there yet, if only as a zombie.
func (p process) exists() bool {
	now, err := look(p.pid)
	return err == nil && now.identity == p.identity
}

// kill sends SIGKILL to the process, provided that it still is the one that was seen.
func (p process) kill() error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return ignoreGone(err)
	}
	defer unix.Close(fd)
	if !p.exists() {
		return nil
	}
	p.leaveIdle()
	return ignoreGone(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
}

// killGroup sends SIGKILL to the group the process was in: what keeps replacing itself by a child outruns a signal to
// its pid, but not one to its group. The group's number is trusted, so the look at the process must be a fresh one, and
// a foreign session's: groups never span sessions.
func (p process) killGroup() {
	if p.pgrp > 1 { // -0 and -1 would mean more than a group
		_ = unix.Kill(-p.pgrp, unix.SIGKILL)
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// origin is the marker of a process that may be about to exec. In the midst of that its environment looks empty, so
// having none counts only if the environment was the same one before and after the look.
func (p process) origin() (string, error) {
	for patience := execPatience; patience > 0; patience -= execPause {
		workspace, err := marker(p.pid)
		if err != nil || workspace != "" || p.state == 'Z' {
			return workspace, err
		}
		now, err := look(p.pid)
		if err != nil {
			return "", err
		}
		if now.environ == p.environ && now.environ != "0" {
			return "", nil
		}
		p = now
		time.Sleep(execPause)
	}
	return "", nil // it keeps on executing itself: nobody's way to work, but one to hide
}

// marker returns the workspace the process carries in its environment, or nothing if it has none. Not to be able to
// look is an error.
func marker(pid int) (string, error) {
	buf := make([]byte, 16<<10)
	n, err := readProc(pid, "environ", buf)
	for err == nil && n == len(buf) && n < environLimit {
		buf = make([]byte, 4*len(buf))
		n, err = readProc(pid, "environ", buf)
	}
	if err != nil {
		return "", err
	}
	for entry := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if workspace, ok := bytes.CutPrefix(entry, []byte(Marker+"=")); ok {
			return string(workspace), nil
		}
	}
	return "", nil
}

// readProc fills buf from the start of a file of /proc/<pid>. Plain system calls take half the time of an os.File.
func readProc(pid int, file string, buf []byte) (int, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/"+file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	total := 0
	for total < len(buf) {
		n, err := unix.Read(fd, buf[total:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return total, err
		}
		if n == 0 {
			break
		}
		total += n
	}
	return total, nil
}
