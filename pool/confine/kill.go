package confine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// killPause is the longest wait between two rounds of killing, and stubbornPause the longest once killing has taken
	// chaseTime: what forks as fast as it can is caught by then, and the rest comes to its end by itself or not at all.
	killPause     = 5 * time.Millisecond
	stubbornPause = 250 * time.Millisecond
	chaseTime     = 3 * time.Second
	// groupTrust is how long after a scan the numbers of groups are trusted. Pids take longer to come round.
	groupTrust = 500 * time.Millisecond
)

// finder picks out of all processes those that have to go. incomplete says that others of them have ended since the
// scan: they may have left something that it missed.
type finder func(all []process) (victims []process, incomplete bool)

// killAll kills what find finds until two scans in a row find nothing: one scan isn't taken at one instant, so a
// process may hide from it by forking at the right time. What duringScan picks, unless it is nil, is killed in the
// midst of the scan already: a process that keeps replacing itself may be another one by its end.
func killAll(duringScan func(process) bool, find finder) error {
	began := time.Now()
	pause := time.Millisecond
	for quiet := 0; quiet < 2; {
		victims, incomplete, err := killRound(duringScan, find)
		if len(victims) == 0 && !incomplete && err == nil {
			quiet++
			continue
		}
		quiet = 0
		took, longest := time.Since(began), killPause
		if took > killTimeout {
			return errors.Join(survivors(victims), err)
		}
		if took > chaseTime {
			longest = stubbornPause
		}
		time.Sleep(pause)
		pause = min(2*pause, longest)
	}
	return nil
}

// rounds lets one scan with what is done about it happen at a time. When many children are stopped at once, scans that
// compete with each other take so long that all are out of date before they can be acted on. And as orphans are reaped
// in rounds only, none of them can vanish in the midst of a scan: it is seen, if only as a zombie.
var rounds = make(chan struct{}, 1)

// lockRound waits for its round and returns what ends it.
func lockRound() (end func()) {
	rounds <- struct{}{}
	return func() { <-rounds }
}

func killRound(duringScan func(process) bool, find finder) (victims []process, incomplete bool, err error) {
	defer lockRound()()
	scanned := time.Now()
	all, err := scan(func(p process) {
		if duringScan != nil && duringScan(p) {
			p.killGroup()
			_ = p.kill() // if this fails, it is found again
		}
	})
	if err != nil {
		return nil, false, err
	}
	victims, incomplete = find(all)
	return victims, incomplete, killEach(victims, time.Since(scanned) < groupTrust)
}

func killEach(victims []process, groups bool) error {
	var errs []error
	for _, p := range victims {
		if groups {
			p.killGroup()
		}
		if err := p.kill(); err != nil {
			errs = append(errs, fmt.Errorf("pid %d: %w", p.pid, err))
		}
	}
	return errors.Join(errs...)
}

func survivors(left []process) error {
	if len(left) == 0 {
		return fmt.Errorf("%w: some that replace themselves faster than they can be found", ErrSurvivors)
	}
	const named = 10
	var names []string
	for _, p := range left[:min(len(left), named)] {
		names = append(names, p.String())
	}
	if len(left) > named {
		names = append(names, fmt.Sprintf("%d more", len(left)-named))
	}
	return fmt.Errorf("%w: %s", ErrSurvivors, strings.Join(names, ", "))
}

// isLeftover says of what an ended child left whether it can be told by the process alone. Its workspace is busy until
// nothing is left, so the marker can't be another child's.
func (c *Child) isLeftover(p process) bool {
	if p.pid == c.pid || p.session == c.pid {
		return p.pid != c.pid
	}
	if p.session == ownSession() {
		return false
	}
	if c.owns(p) {
		return true
	}
	if p.ppid != os.Getpid() {
		return false
	}
	workspace, err := marker(p.pid)
	if err != nil || workspace != c.workspace {
		return false
	}
	reaper.remember(c, p)
	return true
}

// leftovers finds what an ended child left, without itself: it is kept as a zombie until the others are gone. Strays
// are among it, for one of them may be this child's.
func (c *Child) leftovers(all []process) ([]process, bool) {
	now := newCensus(all)
	incomplete := slices.ContainsFunc(now.orphans,
		func(o orphan) bool { return o.ended && (o.owner == c || o.owner == nil) })
	reaper.remember(c, now.family(c, false)...)
	family := now.family(c, true)
	return slices.DeleteFunc(family, func(p process) bool { return p.pid == c.pid }), incomplete
}

// owns says whether the process has the child's uid, which all that a child starts has for good.
func (c *Child) owns(p process) bool {
	if c.uid == 0 {
		return false
	}
	id, ok := p.tenant()
	return ok && id == c.uid
}
