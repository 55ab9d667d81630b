package pool

import "golang.org/x/sys/unix"

// leastFree is which part of the disk is to stay free.
const leastFree = 10

// disk is what the file system of the workspaces has for ordinary users, and what of it is free.
type disk struct{ total, free Space } // without total.Files it doesn't count files

func diskOf(path string) (disk, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return disk{}, err
	}
	free := Space{int64(s.Bavail) * s.Bsize, int64(s.Ffree)}       // #nosec G115 -- of sizes that disks have
	used := Space{int64(s.Blocks-s.Bfree) * s.Bsize, 0}            // #nosec G115 -- the same
	total := free.plus(used).atLeast(Space{Files: int64(s.Files)}) // #nosec G115 -- the same
	return disk{total: total, free: free}, nil
}

// missing is how much more would have to be free.
func (d disk) missing() Space { return d.total.part(leastFree).minus(d.free).atLeast(Space{}) }
