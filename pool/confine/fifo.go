package confine

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// restTime is how long a process has to have used no processor where the kernel doesn't tell what it waits for.
const restTime = 500 * time.Millisecond

// opensFIFO are the functions of the kernel in which a process waits for that: the first, or where the compiler has put
// it into the second.
var opensFIFO = []string{"wait_for_partner", "fifo_open"}

// Opening tells when a process waits for somebody to write to a FIFO that it opens to read, without opening that, which
// would end the waiting. It is for one goroutine.
type Opening struct {
	pid     int
	waitsIn func(pid int, functions ...string) (waits, known bool)
	ticks   uint64
	since   time.Time // it has used so much, asleep
}

// NewOpening returns one of a child's.
func NewOpening(pid int) *Opening { return &Opening{pid: pid, waitsIn: waitsIn} }

// Waits reports whether the process waits now. Where the kernel doesn't tell (gVisor's doesn't), one that has slept for
// a while without using a processor is taken to: one that is stopped, or gets no processor, has yet to come.
func (o *Opening) Waits() (bool, error) {
	waits, known := o.waitsIn(o.pid, opensFIFO...)
	if known {
		return waits, nil
	}
	p, err := look(o.pid)
	if err != nil {
		return false, err
	}
	if now := time.Now(); p.ticks != o.ticks || p.state != 'S' || o.since.IsZero() {
		o.ticks, o.since = p.ticks, now
	}
	return p.ticks > 0 && time.Since(o.since) >= restTime, nil
}

// waitsIn reports whether one of the process's threads waits in one of the kernel's functions, or in a part of one, and
// whether that is known.
func waitsIn(pid int, functions ...string) (waits, known bool) {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return false, false
	}
	buf := make([]byte, 64)
	for _, thread := range threads {
		n, err := readProc(pid, "task/"+thread.Name()+"/wchan", buf)
		if err != nil {
			continue // it has just ended
		}
		known = known || n > 1 // one that runs has "0", as all have where it isn't told
		if in, _, _ := strings.Cut(string(buf[:n]), "."); slices.Contains(functions, in) {
			return true, true
		}
	}
	return false, known
}
