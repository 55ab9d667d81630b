package confine

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// mostHeld is how many open files of a child and all it started are looked at.
const mostHeld = 16384

// Held is what a child and all it started take of the disk beside the files in its workspace.
type Held struct {
	Bytes   int64 // of files without a name, until they are closed
	TooMany bool  // more files are open than are looked at
}

// HeldBy is what each of the children holds, by one look at all processes of the machine.
func HeldBy(children ...*Child) ([]Held, error) {
	families, err := familiesOf(children)
	if err != nil {
		return nil, err
	}
	held := make([]Held, len(children))
	for i, c := range children {
		held[i] = heldBy(c.workspace, families[i])
	}
	return held, nil
}

func familiesOf(children []*Child) ([][]process, error) {
	if len(children) == 0 {
		return nil, nil
	}
	defer takeRound()()
	all, err := scan(nil)
	if err != nil {
		return nil, err
	}
	now, families := newCensus(all), make([][]process, len(children))
	for i, c := range children {
		families[i] = now.family(c, false)
	}
	return families, nil
}

func heldBy(workspace string, family []process) (held Held) {
	var place unix.Stat_t
	if unix.Lstat(workspace, &place) != nil {
		return held
	}
	seen := make(map[uint64]bool)
	looks := 0
	for _, p := range family {
		open, err := openRoot("/proc/" + strconv.Itoa(p.pid) + "/fd")
		if err != nil {
			continue // it has just ended
		}
		for name, err := open.next(); err == nil && name != ""; name, err = open.next() {
			if looks++; looks > mostHeld {
				held.TooMany = true
				break
			}
			var stat unix.Stat_t
			err := unix.Fstatat(open.fd, name, &stat, 0) // what the link stands for, whatever its name
			if err == nil && stat.Nlink == 0 && stat.Dev == place.Dev && !seen[stat.Ino] {
				seen[stat.Ino] = true
				held.Bytes += stat.Blocks * 512
			}
		}
		open.close()
	}
	return held
}
