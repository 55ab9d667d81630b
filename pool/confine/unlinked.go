package confine

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// maxLooks is how many open files of a child and all it started are looked at for their links.
const maxLooks = 16384

// Unlinked is what a child and all it started take of the disk beside the files in its workspace.
type Unlinked struct {
	Bytes   int64 // of files without a name, until they are closed
	TooMany bool  // more files are open than are looked at
}

// UnlinkedBy is what each of the children has, by one look at all processes of the machine.
func UnlinkedBy(children ...*Child) ([]Unlinked, error) {
	families, err := FamiliesOf(children...)
	if err != nil {
		return nil, err
	}
	all := make([]Unlinked, len(children))
	for i, c := range children {
		all[i] = unlinkedBy(c.workspace, families[i])
	}
	return all, nil
}

func unlinkedBy(workspace string, family []process) (found Unlinked) {
	var place unix.Stat_t
	if unix.Lstat(workspace, &place) != nil {
		return found
	}
	seen := make(map[uint64]bool)
	looks := 0
	for _, p := range family {
		pid, alive := p.living()
		if !alive {
			continue
		}
		open, err := openRoot("/proc/" + strconv.Itoa(pid) + "/fd")
		if err != nil {
			continue // it has just ended
		}
		for name, err := open.next(); err == nil && name != ""; name, err = open.next() {
			if looks++; looks > maxLooks {
				found.TooMany = true
				break
			}
			var stat unix.Stat_t
			err := unix.Fstatat(open.fd, name, &stat, 0) // what the link stands for, whatever its name
			if err == nil && stat.Nlink == 0 && stat.Dev == place.Dev && !seen[stat.Ino] {
				seen[stat.Ino] = true
				found.Bytes += stat.Blocks * 512
			}
		}
		open.close()
	}
	return found
}
