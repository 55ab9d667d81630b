package confine

import (
	"bytes"
	"os"
	"strconv"
)

// MachineLoad tells at little cost whether something goes on that makes a look at all processes worth its price. What
// can't be told is 0.
type MachineLoad struct {
	Available int64 // bytes of memory that programs could still have
	Total     int64
	Files     int64 // open ones
	MostFiles int64 // that may be open
	Runnable  int64 // threads that run or wait for a processor
}

// ReadMachineLoad reads how the machine is.
func ReadMachineLoad() (p MachineLoad) {
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range bytes.Lines(text) {
			key, value, _ := bytes.Cut(line, []byte(":"))
			switch string(key) {
			case "MemTotal":
				p.Total = numberIn(value, 0) << 10
			case "MemAvailable":
				p.Available = numberIn(value, 0) << 10
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/fs/file-nr"); err == nil {
		p.Files, p.MostFiles = numberIn(text, 0), numberIn(text, 2)
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil { // 0.1 0.2 0.3 1/234 5678
		_, rest, _ := bytes.Cut(text, []byte("/"))
		p.Runnable = numberIn(text[:len(text)-len(rest)-min(1, len(rest))], 3)
	}
	return p
}

// numberIn is the number in one of a text's fields.
func numberIn(text []byte, field int) int64 {
	fields := bytes.Fields(text)
	if field >= len(fields) {
		return 0
	}
	n, err := strconv.ParseInt(string(fields[field]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
