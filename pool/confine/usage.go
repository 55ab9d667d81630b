package confine

import (
	"slices"
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

	Family
	group *childGroup
}

// SetIdle is Family.SetIdle, for the child's control group as well.
func (u Usage) SetIdle(idle bool) error {
	u.group.setIdle(idle)
	return u.Family.SetIdle(idle)
}

// Family is a child and all it started, as one look at the machine found them.
type Family []process

// Living is how many processes these are, without zombies.
func (f Family) Living() (living int) {
	for _, p := range f {
		if !p.isZombie() {
			living++
		}
	}
	return living
}

// Without are all but one of them.
func (f Family) Without(pid int) Family {
	return slices.DeleteFunc(slices.Clone(f), func(p process) bool { return p.pid == pid })
}

// Except are those that aren't in another family.
func (f Family) Except(other Family) Family {
	in := make(map[identity]bool, len(other))
	for _, p := range other {
		in[p.identity] = true
	}
	return slices.DeleteFunc(slices.Clone(f), func(p process) bool { return in[p.identity] })
}

// Part are n of them, from the given one on and again from the beginning, or all if they are fewer.
func (f Family) Part(from, n int) Family {
	if len(f) <= n {
		return f
	}
	from %= len(f)
	return slices.Concat(f[from:], f[:from])[:n]
}

// Sessions is how many sessions they are in.
func (f Family) Sessions() int {
	sessions := make(map[int]bool)
	for _, p := range f {
		if !p.isZombie() {
			sessions[p.session] = true
		}
	}
	return len(sessions)
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
	families, err := FamiliesOf(children...)
	if err != nil || len(children) == 0 {
		return nil, err
	}
	sockets := socketsByUID()
	usages, memory := make([]Usage, len(children)), make(inMemory)
	for i, c := range children {
		u, h := &usages[i], newFootprint(memory)
		u.Family, u.group = families[i], c.group
		u.CPU = time.Duration(c.orphanTicks.Load()) * tick // #nosec G115 -- far below
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

// FamiliesOf is the family of each of the children, by one look at the machine: a part of UsageOf that costs less.
func FamiliesOf(children ...*Child) ([]Family, error) {
	if len(children) == 0 {
		return nil, nil
	}
	defer lockRound()()
	all, err := scan(nil)
	if err != nil {
		return nil, err
	}
	now, families := newCensus(all), make([]Family, len(children))
	for i, c := range children {
		families[i] = now.family(c, false)
	}
	return families, nil
}
