package confine

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// SetNice sets the scheduling priority of the child's process with all its threads, as nice(1) does: 19 is last, 0 is
// normal. What the child started is left as it is, and what it starts from then on inherits it. Without the right to
// come back from a lower priority nothing is changed.
func (c *Child) SetNice(n int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(c.pid) + "/task")
	if err != nil {
		return err
	}
	var failed error
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err == nil {
			err = unix.Setpriority(unix.PRIO_PROCESS, tid, n)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
