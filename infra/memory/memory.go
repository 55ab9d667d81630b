// Package memory tells how much memory this program may use.
package memory

import "github.com/KimMachineGun/automemlimit/memlimit"

// Limit is the memory of the program's cgroup, or of the machine where that has no limit, in bytes; 0 if it can't be
// told.
func Limit() uint64 {
	bytes, err := memlimit.FromCgroup()
	if err != nil || bytes == 0 {
		if bytes, err = memlimit.FromSystem(); err != nil {
			return 0
		}
	}
	return bytes
}
