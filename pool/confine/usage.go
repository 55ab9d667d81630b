package confine

import (
	"time"
)

// tick is the unit of processor time in /proc.
const tick = time.Second / 100

// Usage is what a child and all it started take.
type Usage struct {
	Memory    int64         // bytes; footprint.go says of what
	Files     int           // open and mapped ones. Beyond MostFiles they aren't counted, nor is what they hold
	Processes int           // without zombies
	CPU       time.Duration // processor time since its start, also of what has ended since

	family []process
}

// Usage looks at all processes of the child once. BENCH.md says why it counts memory the way it does.
func (c *Child) Usage() (Usage, error) {
	all, err := UsageOf(c)
	if err != nil {
		return Usage{}, err
	}
	return all[0], nil
}

// UsageOf is the usage of each of the children, by one look at all processes and sockets of the machine.
func UsageOf(children ...*Child) ([]Usage, error) {
	families, err := familiesOf(children)
	if err != nil || len(children) == 0 {
		return nil, err
	}
	sockets := socketsByUID()
	usages, memory := make([]Usage, len(children)), make(inMemory)
	for i, c := range children {
		u, h := &usages[i], newHeld(memory)
		u.family = families[i]
		u.CPU = time.Duration(c.spent.Load()) * tick // #nosec G115 -- far below
		for _, p := range families[i] {
			u.CPU += time.Duration(p.ticks) * tick // #nosec G115 -- of a lifetime
			if pid, alive := p.living(); alive && h.add(pid) == nil {
				u.Processes++
			}
		}
		var theirs socketUse
		if c.uid != 0 {
			theirs = sockets[c.uid]
		}
		u.Memory, u.Files = h.total(theirs), h.files
	}
	return usages, nil
}

// ProcessesOf is how many processes each of the children has, itself included and without zombies, by one look at the
// machine: a part of UsageOf that costs less.
func ProcessesOf(children ...*Child) ([]int, error) {
	families, err := familiesOf(children)
	counts := make([]int, len(families))
	for i, family := range families {
		for _, p := range family {
			if !p.isZombie() {
				counts[i]++
			}
		}
	}
	return counts, err
}

// familiesOf finds all processes of each of the children.
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
