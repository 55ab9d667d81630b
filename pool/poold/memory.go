package poold

import (
	"os"
	"strconv"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/procfs"

	"claudepool/infra/memory"
)

// processBytes is what one idle process takes, for the number of processes that memory allows; a quarter of all memory
// is left to the service and to bursts.
const processBytes = 300 << 20

func processesForMemory() int {
	return max(1, int(memory.Limit()/4*3/processBytes)) // #nosec G115 -- far below
}

// memoryShort reports that less than a tenth of the memory is free, of the machine's or of this service's share of it.
func memoryShort() bool {
	if fs, err := procfs.NewDefaultFS(); err == nil {
		info, err := fs.Meminfo()
		if err == nil && info.MemAvailable != nil && info.MemTotal != nil && *info.MemAvailable < *info.MemTotal/10 {
			return true
		}
	}
	limit, err := memlimit.FromCgroup()
	used, ok := cgroupUsed()
	return err == nil && limit > 0 && ok && used > limit/10*9
}

// cgroupUsed is the memory of the service and its children that the kernel can't just drop, in bytes.
func cgroupUsed() (uint64, bool) {
	const folder = "/sys/fs/cgroup/" // of version 2, which is the root of what a container sees
	text, err := os.ReadFile(folder + "memory.current")
	used, parseErr := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	stat, statErr := os.ReadFile(folder + "memory.stat")
	if err != nil || parseErr != nil || statErr != nil {
		return 0, false
	}
	var dropped uint64 // by the kernel, when it is needed
	for line := range strings.Lines(string(stat)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "inactive_file", "active_file", "slab_reclaimable":
			bytes, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return 0, false
			}
			dropped += bytes
		}
	}
	return used - min(used, dropped), true
}
