package main

import (
	"errors"
	"io/fs"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// cpu is the CPU time of the service and of its processes.
func (c *crowd) cpu() (service, clis time.Duration, err error) {
	own, err := cpu([]int{c.service.cmd.Process.Pid})
	if err != nil {
		return 0, 0, err
	}
	all, err := cpu(c.pids)
	return time.Duration(own * float64(time.Second)), time.Duration(all * float64(time.Second)), err
}

func ownCPU() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// threads are the CPU times of a process's threads, by their ids.
type threads map[int]time.Duration

// threadsOf tells them to the nanosecond. The sum of the whole process is told in hundredths of a second only, in which
// it serves a dozen requests.
func threadsOf(pid int) (threads, error) {
	all, err := procfs.AllThreads(pid)
	if err != nil {
		return nil, err
	}
	times := make(threads, len(all))
	for _, one := range all {
		stat, err := one.Schedstat()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has just ended
		}
		if err != nil {
			return nil, err
		}
		times[one.PID] = time.Duration(stat.RunningNanoseconds)
	}
	return times, nil
}

// since is the CPU time the threads have used since an earlier look at them.
func (t threads) since(earlier threads) time.Duration {
	var used time.Duration
	for id, d := range t {
		used += d - earlier[id]
	}
	return used
}
