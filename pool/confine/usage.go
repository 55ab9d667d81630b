package confine

import (
	"bytes"
	"strconv"
)

// Usage is what a child and all it started take.
type Usage struct {
	RSS       int64 // bytes
	Processes int   // without zombies
}

// Usage looks at all processes of the child once. BENCH.md says why it counts memory the way it does.
func (c *Child) Usage() (Usage, error) {
	all, err := UsageOf(c)
	if err != nil {
		return Usage{}, err
	}
	return all[0], nil
}

// UsageOf is the usage of each of the children, by one look at all processes of the machine.
func UsageOf(children ...*Child) ([]Usage, error) {
	if len(children) == 0 {
		return nil, nil
	}
	defer takeRound()()
	all, err := scan(nil)
	if err != nil {
		return nil, err
	}
	now, usages := newCensus(all), make([]Usage, len(children))
	for i, c := range children {
		for _, p := range now.family(c, false) {
			if p.state == 'Z' {
				continue
			}
			if rss, err := resident(p.pid); err == nil { // else it has just ended
				usages[i].RSS += rss
				usages[i].Processes++
			}
		}
	}
	return usages, nil
}

// resident returns the anonymous and the shared memory of a process, in bytes. Pages of files aren't counted: the
// program's own are shared by all children, and the kernel can drop them at any time.
func resident(pid int) (int64, error) {
	buf := make([]byte, 4<<10)
	n, err := readProc(pid, "status", buf)
	if err != nil {
		return 0, err
	}
	var total int64
	for line := range bytes.Lines(buf[:n]) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		if string(key) != "RssAnon" && string(key) != "RssShmem" {
			continue
		}
		number, _, _ := bytes.Cut(bytes.TrimSpace(value), []byte(" "))
		kib, err := strconv.ParseInt(string(number), 10, 64)
		if err != nil {
			return 0, err
		}
		total += kib << 10
	}
	return total, nil
}
