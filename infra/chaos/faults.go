package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"claudepool/infra/testkit"
)

// fault is something that goes wrong and is set right again.
type fault struct {
	name  string
	group string // faults of one group can't overlap: they are about the same thing
	hold  time.Duration
	// strike makes it go wrong. What it returns sets it right, hold later.
	strike func(b *injection) (heal func() error, err error)
}

// injection is one fault on its way.
type injection struct {
	ctx    context.Context
	stage  *stage
	load   *load
	random *rand.Rand
	taken  []any
}

const diskFull = "disk full for 5 s"

// faults are all there are.
func faults() []fault {
	all := []fault{
		{"instance SIGKILL", "instance", 0, killInstance},
		{"instance SIGTERM", "instance", 0, termInstance},
		{"instance SIGSTOP for 15 s", "instance", 15 * time.Second, freezeInstance},
		{"two instances SIGKILL", "instance", 0, killTwo},
		{"rolling replacement of all instances", "instance", 0, rollInstances},
		{"front SIGKILL", "front", 0, killFront},
		{"front SIGTERM", "front", 0, termFront},
		{"Redis SIGKILL, back empty after 5 s", "redis", 5 * time.Second, killRedis},
		{"Redis emptied", "redis", 0, flushRedis},
		{"Redis paused for 15 s", "redis", 15 * time.Second, pauseRedis},
		{"Redis failed over to its replica", "redis", 0, failOverRedis},
		{"Redis slow, 200 ms", "redis", 12 * time.Second, slowRedis},
		{"instance–Redis silent for 12 s", "instance", 12 * time.Second, partInstance((*testkit.Relay).Hold)},
		{"instance–Redis reset for 12 s", "instance", 12 * time.Second, partInstance(cutLine)},
		{"fronts–instance silent for 12 s", "instance", 12 * time.Second, partFronts((*testkit.Relay).Hold)},
		{"fronts–instance reset for 12 s", "instance", 12 * time.Second, partFronts(cutLine)},
		{"front–Redis silent for 12 s", "front", 12 * time.Second, partFront((*testkit.Relay).Hold)},
		{"front–Redis reset for 12 s", "front", 12 * time.Second, partFront(cutLine)},
		{"Firestore SIGKILL, back after some 10 s", "firestore", 6 * time.Second, killFirestore},
		{diskFull, "instance", 5 * time.Second, fillDisk},
		{"Firestore slow, 4 s", "firestore", 12 * time.Second, lineToFirestore(slowLine)},
		{"Firestore silent for 12 s", "firestore", 12 * time.Second, lineToFirestore((*testkit.Relay).Hold)},
	}
	for _, mood := range []struct{ name, directive string }{
		{"crashes", "[[exit]]"}, {"hangs", "[[hang]]"}, {"floods", "[[flood]]"}, {"prints garbage", "[[noise]]"},
		{"never ends its turn", "[[never]]"}, {"goes after its turn", "[[leave]]"}, {"answers another turn", "[[late]]"},
	} {
		all = append(all, fault{"CLI " + mood.name, "cli", 5 * time.Second, misbehave(mood.directive)})
	}
	return all
}

// instance chooses one that no other fault is busy with.
func (b *injection) instance() (slot int, i *instance) {
	slot = b.choose(instances, func(n int) any { return b.stage.instances[n] })
	return slot, b.taken[len(b.taken)-1].(*instance)
}

// front chooses one likewise.
func (b *injection) front() (slot int, f *front) {
	slot = b.choose(fronts, func(n int) any { return b.stage.fronts[n] })
	return slot, b.taken[len(b.taken)-1].(*front)
}

func (b *injection) choose(n int, at func(n int) any) int {
	b.stage.mu.Lock()
	defer b.stage.mu.Unlock()
	for _, slot := range b.random.Perm(n) {
		if one := at(slot); !b.stage.taken[one] {
			b.stage.taken[one] = true
			b.taken = append(b.taken, one)
			return slot
		}
	}
	panic("faults of one group were to overlap")
}

// done lets others choose what this one was busy with.
func (b *injection) done() {
	b.stage.mu.Lock()
	defer b.stage.mu.Unlock()
	for _, one := range b.taken {
		delete(b.stage.taken, one)
	}
}

// replace starts an instance in the place of one that is gone or going.
func (b *injection) replace(slot int) error {
	next, err := b.stage.newInstance(b.ctx, slot)
	if err != nil {
		return err
	}
	b.stage.mu.Lock()
	defer b.stage.mu.Unlock()
	b.stage.instances[slot] = next
	return nil
}

func (b *injection) replaceFront(slot int) error {
	next, err := b.stage.newFront(b.ctx)
	if err != nil {
		return err
	}
	b.stage.mu.Lock()
	defer b.stage.mu.Unlock()
	b.stage.fronts[slot] = next
	return nil
}

func killInstance(b *injection) (func() error, error) {
	slot, i := b.instance()
	i.harm.begin()
	i.Kill()
	i.hop.Close()
	return func() error { return b.replace(slot) }, nil
}

func killTwo(b *injection) (func() error, error) {
	first, err := killInstance(b)
	if err != nil {
		return nil, err
	}
	second, err := killInstance(b)
	return func() error { return errors.Join(first(), second()) }, err
}

func termInstance(b *injection) (func() error, error) {
	slot, i := b.instance()
	i.harm.begin()
	i.graceful.Store(true)
	i.Signal(syscall.SIGTERM)
	return func() error { return errors.Join(b.replace(slot), i.Terminate(endTime)) }, nil
}

// rollInstances does what an update does: for each a new one first, then the old one's end. It begins to be over when
// the last one is asked to end.
func rollInstances(b *injection) (func() error, error) {
	end := func() error { return nil }
	for slot, i := range b.stage.living() {
		if err := end(); err != nil {
			return nil, err
		}
		i.harm.begin()
		i.graceful.Store(true)
		if err := b.replace(slot); err != nil {
			return nil, err
		}
		end = func() error { return i.Terminate(endTime) }
	}
	return end, nil
}

func freezeInstance(b *injection) (func() error, error) {
	_, i := b.instance()
	harmless, together := i.harm.begin(), i.apart.begin()
	i.Signal(syscall.SIGSTOP)
	return func() error {
		i.Signal(syscall.SIGCONT)
		together()
		harmless()
		return nil
	}, nil
}

func killFront(b *injection) (func() error, error) {
	slot, f := b.front()
	f.harm.begin()
	f.retired.Store(true)
	f.killed.Store(true)
	f.Kill()
	return func() error { return b.replaceFront(slot) }, nil
}

// termFront takes the front out of what balances the load, then ends it.
func termFront(b *injection) (func() error, error) {
	slot, f := b.front()
	if err := b.replaceFront(slot); err != nil {
		return nil, err
	}
	f.retired.Store(true)
	f.harm.begin()
	return func() error { return f.Terminate(endTime) }, nil
}

func killRedis(b *injection) (func() error, error) {
	over := b.stage.ledger.outage.begin()
	b.stage.redis.primary.Kill()
	return func() error {
		over()
		return b.stage.redis.restart()
	}, nil
}

func flushRedis(b *injection) (func() error, error) {
	return func() error { return nil }, b.stage.redis.current().FlushAll(b.ctx).Err()
}

func pauseRedis(b *injection) (func() error, error) {
	over := b.stage.ledger.outage.begin()
	b.stage.redis.primary.Signal(syscall.SIGSTOP)
	return func() error {
		over()
		b.stage.redis.primary.Signal(syscall.SIGCONT)
		return nil
	}, nil
}

func failOverRedis(b *injection) (func() error, error) {
	return func() error { return nil }, b.stage.redis.failOver(b.ctx)
}

func slowRedis(b *injection) (func() error, error) {
	b.stage.redis.each(func(r *testkit.Relay) { r.Slow(100 * time.Millisecond) })
	return func() error {
		b.stage.redis.each((*testkit.Relay).Mend)
		return nil
	}, nil
}

func cutLine(r *testkit.Relay)  { r.Reset(true) }
func slowLine(r *testkit.Relay) { r.Slow(2 * time.Second) }

// partInstance takes an instance's Redis away.
func partInstance(how func(*testkit.Relay)) func(b *injection) (func() error, error) {
	return func(b *injection) (func() error, error) {
		_, i := b.instance()
		harmless, together := i.harm.begin(), i.apart.begin()
		how(i.redis)
		return func() error {
			i.redis.Mend()
			together()
			harmless()
			return nil
		}, nil
	}
}

// partFronts keeps all fronts from an instance.
func partFronts(how func(*testkit.Relay)) func(b *injection) (func() error, error) {
	return func(b *injection) (func() error, error) {
		_, i := b.instance()
		harmless := i.harm.begin()
		how(i.hop)
		return func() error {
			i.hop.Mend()
			harmless()
			return nil
		}, nil
	}
}

// partFront takes a front's Redis away. That is no harm: users it served before are served on.
func partFront(how func(*testkit.Relay)) func(b *injection) (func() error, error) {
	return func(b *injection) (func() error, error) {
		_, f := b.front()
		over := b.stage.ledger.outage.begin()
		how(f.redis)
		return func() error {
			over()
			f.redis.Mend()
			return nil
		}, nil
	}
}

func killFirestore(b *injection) (func() error, error) {
	over := b.stage.ledger.archive.begin()
	cutLine(b.stage.firestore.relay) // it takes seconds to start, which are no part of the recovery
	b.stage.firestore.process.Kill()
	return func() error {
		b.stage.firestore.relay.Mend()
		over()
		return nil
	}, b.stage.firestore.run(b.ctx)
}

func lineToFirestore(how func(*testkit.Relay)) func(b *injection) (func() error, error) {
	return func(b *injection) (func() error, error) {
		over := b.stage.ledger.archive.begin()
		how(b.stage.firestore.relay)
		return func() error {
			over()
			b.stage.firestore.relay.Mend()
			return nil
		}, nil
	}
}

// fillDisk leaves no room on the small disk of the first instance.
func fillDisk(b *injection) (func() error, error) {
	i := b.stage.living()[0]
	harmless := i.harm.begin()
	path := fmt.Sprintf("/proc/%d/root%s/full", i.PID(), b.stage.small())
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = file.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return nil, err
	}
	return func() error {
		harmless()
		return os.Remove(path)
	}, nil
}

// misbehave makes the CLIs of some talkers do what no CLI should.
func misbehave(directive string) func(b *injection) (func() error, error) {
	return func(b *injection) (func() error, error) {
		b.load.speak(directive)
		return func() error {
			b.load.speak("")
			return nil
		}, nil
	}
}
