package confine

import "os"

// census is a scan, arranged so that the families of many children are found in it.
type census struct {
	kin
	orphans []orphan
	tenants map[int][]process // by uid; nil until somebody asks
}

// newCensus also finds the orphans. The caller has the round.
func newCensus(all []process) *census { return &census{kin: newKin(all), orphans: reaper.orphans(all)} }

// family finds the child and all it started, and if asked for, strays with all they started.
func (n *census) family(c *Child, strays bool) []process {
	roots := append([]process(nil), n.bySession[c.pid]...)
	for _, o := range n.orphans {
		if !o.ended && (o.owner == c || strays && o.owner == nil) {
			roots = append(roots, o.process)
		}
	}
	if c.uid != 0 {
		roots = append(roots, n.of(c.uid)...)
	}
	return n.closure(roots)
}

// of finds what runs under a child's uid.
func (n *census) of(uid int) []process {
	if n.tenants == nil {
		n.tenants = make(map[int][]process)
		for _, p := range n.all {
			if id, ok := p.tenant(); ok {
				n.tenants[id] = append(n.tenants[id], p)
			}
		}
	}
	return n.tenants[uid]
}

// tenant is the process's uid. Zombies that are somebody else's to reap don't count: nobody here can make them go.
func (p process) tenant() (uid int, ok bool) {
	uid, err := p.uid()
	return uid, err == nil && (p.ppid == os.Getpid() || !p.isZombie())
}

// kin are processes by how they are related. Those of this process's own session aren't among them: they are never ours
// to kill, whatever their marker says.
type kin struct {
	all                 []process
	byParent, bySession map[int][]process
}

func newKin(all []process) kin {
	own := ownSession()
	k := kin{byParent: make(map[int][]process), bySession: make(map[int][]process)}
	for _, p := range all {
		if p.session == own {
			continue
		}
		k.all = append(k.all, p)
		k.byParent[p.ppid] = append(k.byParent[p.ppid], p)
		k.bySession[p.session] = append(k.bySession[p.session], p)
	}
	return k
}

// closure finds the roots, their descendants, and whoever shares a session with one of them. A session is only ever
// inherited, so its members have one origin.
func (k kin) closure(roots []process) (found []process) {
	seen := make(map[int]bool)
	for queue := roots; len(queue) > 0; {
		p := queue[0]
		queue = queue[1:]
		if seen[p.pid] {
			continue
		}
		seen[p.pid] = true
		found = append(found, p)
		queue = append(queue, k.byParent[p.pid]...)
		if p.session > 0 { // 0 stands for all sessions that have no number in this namespace
			queue = append(queue, k.bySession[p.session]...)
		}
	}
	return found
}
