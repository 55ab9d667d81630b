package workspace

import "golang.org/x/sys/unix"

// leastFree is which part of a disk is to stay free.
const leastFree = 10

// Disk is what a file system has for ordinary users, and what of it is free. Total.Files is 0 where it
// doesn't count files.
type Disk struct{ Total, Free Space }

// DiskOf is the disk that a path is on.
func DiskOf(path string) (Disk, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Disk{}, err
	}
	free := Space{int64(s.Bavail) * s.Bsize, int64(s.Ffree)}   // #nosec G115 -- of sizes that disks have
	used := Space{int64(s.Blocks-s.Bfree) * s.Bsize, 0}        // #nosec G115 -- the same
	total := free.Plus(used).Max(Space{Files: int64(s.Files)}) // #nosec G115 -- the same
	return Disk{Total: total, Free: free}, nil
}

// Missing is how much more would have to be free.
func (d Disk) Missing() Space { return d.Total.Part(leastFree).Minus(d.Free).Max(Space{}) }

// Growth notices that a disk gets fuller. The zero value is ready. It is for one goroutine at a time.
type Growth struct{ least *Space }

// Exceeds reports whether more than most has been written since it reported so last, or may have been: what others have
// removed meanwhile hides nothing, as it counts from the least that was in use.
func (g *Growth) Exceeds(most Space, d Disk) bool {
	if d.Total.Files == 0 { // it can't be told
		return true
	}
	used := d.Total.Minus(d.Free)
	if g.least != nil {
		if *g.least = g.least.Min(used); used.Minus(*g.least).Within(most) {
			return false
		}
	}
	g.least = &used
	return true
}
