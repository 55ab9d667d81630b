package router

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"
)

// act does one step.
func (m *model) act(action string) {
	m.t.Log(action)
	switch action {
	case "run a command":
		m.runCommand()
	case "execute a command":
		m.executeCommand()
	case "lose a command":
		m.loseCommand()
	case "lose an answer":
		m.loseAnswer()
	case "execute a command twice":
		m.executeTwice()
	case "give a command up":
		m.giveCommandUp()
	case "execute a late command":
		m.lateCommand()
	case "request":
		m.request(m.front(), m.user())
	case "beat":
		m.beats(m.alive())
	case "assert":
		m.refreshes(m.alive())
	case "release":
		m.releaseOne()
	case "dial":
		m.dials()
	case "unreachable":
		m.unreachable()
	case "dial again":
		m.dialsAgain()
	case "time passes":
		m.passes(time.Duration(rapid.IntRange(1, 6).Draw(m.t, "seconds")) * time.Second)
	default:
		m.fault(action)
	}
}

func (m *model) fault(action string) {
	switch action {
	case "cut or heal an instance":
		n := m.alive()
		n.link.up, m.changed = !n.link.up, true
	case "cut or heal a front":
		f := m.front()
		f.link.up = !f.link.up
	case "empty Redis":
		m.changed = true
		m.empties()
	case "replicate":
		m.replicates()
	case "fail over":
		m.changed = true
		m.failsOver()
	case "drain":
		m.drains()
	case "full":
		n := m.alive()
		n.full = !n.full
	case "kill":
		m.killed()
	case "outage":
		m.outage()
	}
}

// faults are all that can go wrong.
var faults = []string{"lose a command", "lose an answer", "execute a command twice", "give a command up", "assert",
	"unreachable", "full", "cut or heal an instance", "cut or heal a front", "empty Redis", "fail over", "drain", "kill",
	"outage", silence}

// silence is a fault of a whole run: where only the instances beat that the model moves, often none does for long.
const silence = "silence"

// drawFaults draws some of them: with all at once nothing lasts long enough for rare consequences.
func drawFaults(t *rapid.T) (some []string) {
	for _, name := range faults {
		if rapid.Bool().Draw(t, name) {
			some = append(some, name)
		}
	}
	return some
}

// weighted lists what a step may be, as often as it is to be likely.
func weighted(faults []string) (actions []string) {
	for _, a := range []struct {
		weight int
		name   string
	}{{10, "run a command"}, {2, "execute a command"}, {7, "request"}, {5, "beat"}, {2, "release"}, {1, "dial"}, {4,
		"time passes"}} {
		actions = append(actions, slices.Repeat([]string{a.name}, a.weight)...)
	}
	for _, name := range faults {
		if name == silence {
			continue
		}
		actions = append(actions, name, name)
		switch name {
		case "give a command up":
			actions = append(actions, "execute a late command")
		case "unreachable":
			actions = append(actions, slices.Repeat([]string{"dial again"}, maxFailed)...)
		case "fail over":
			actions = append(actions, "replicate", "replicate")
		}
	}
	return actions
}

func (m *model) front() *frontModel {
	return m.fronts[rapid.IntRange(0, len(m.fronts)-1).Draw(m.t, "front")]
}

func (m *model) alive() *instanceModel {
	living := m.living()
	n := living[rapid.IntRange(0, len(living)-1).Draw(m.t, "instance")]
	m.t.Log(n.id)
	return n
}

func (m *model) user() string { return rapid.SampledFrom(m.users).Draw(m.t, "user") }

// waiting draws one of the ops whose command has or has not been executed.
func (m *model) waiting(executed bool) *op {
	ops := slices.DeleteFunc(slices.Clone(m.ops), func(o *op) bool { return o.call.executed && !executed })
	if len(ops) == 0 {
		return nil
	}
	return ops[rapid.IntRange(0, len(ops)-1).Draw(m.t, "op")]
}

func (m *model) runCommand() {
	if o := m.waiting(true); o != nil {
		if !o.call.executed {
			_ = m.execute(o.call)
		}
		m.deliver(o)
	}
}

func (m *model) executeCommand() {
	if o := m.waiting(false); o != nil && m.execute(o.call) != nil {
		m.deliver(o)
	}
}

func (m *model) loseCommand() {
	if o := m.waiting(false); o != nil {
		m.resume(o, errLost)
	}
}

func (m *model) loseAnswer() {
	if o := m.waiting(true); o != nil {
		if !o.call.executed {
			_ = m.execute(o.call)
		}
		m.resume(o, errLost)
	}
}

// executeTwice is what the client library does when the first answer is lost.
func (m *model) executeTwice() {
	if o := m.waiting(false); o != nil && o.call.from.up && len(o.call.cmds) == 1 {
		m.again(o.call.cmds[0].Args())
		_ = m.execute(o.call)
	}
}

func (m *model) giveCommandUp() {
	if o := m.waiting(false); o != nil && len(o.call.cmds) == 1 {
		m.late = append(m.late, lateCommand{at: m.at, args: o.call.cmds[0].Args()})
		m.resume(o, errLost)
	}
}

func (m *model) lateCommand() {
	if len(m.late) > 0 {
		late := m.late[0]
		m.late = m.late[1:]
		if late.at == m.at {
			m.again(late.args)
		}
	}
}

// request is what a front and a pool do with one.
func (m *model) request(f *frontModel, user string) {
	if f.busy[user] {
		return
	}
	f.busy[user] = true
	m.start(func(ctx context.Context) {
		defer delete(f.busy, user)
		for range 2 {
			owner, err := f.Route(ctx, user)
			if err != nil {
				return
			}
			n := m.instance(owner.Instance)
			if n.dead {
				f.Unreachable(ctx, user, owner)
				continue
			}
			err = n.enter(ctx, user)
			if err == nil {
				return
			}
			f.Misdirected(user, owner)
			if !errors.Is(err, ErrNotOwner) {
				return
			}
		}
	})
}

func (n *instanceModel) enter(ctx context.Context, user string) error {
	if n.leaving || n.releasing[user] {
		return errLost // an answer that nothing was begun
	}
	n.entering[user]++
	defer func() { n.entering[user]-- }()
	err := n.Admit(ctx, user, false)
	if err == nil && !n.dead {
		n.holding[user] = true
	}
	return err
}

func (m *model) beats(n *instanceModel) { m.loops(n, func(ctx context.Context) { _ = n.beat(ctx) }) }

func (m *model) refreshes(n *instanceModel) {
	if n.epoch != "" {
		m.loops(n, func(ctx context.Context) { _, _, _ = n.assert(ctx) })
	}
}

// loops runs a part of a lease's loop, which does one thing at a time.
func (m *model) loops(n *instanceModel, do func(ctx context.Context)) {
	if n.beating {
		return
	}
	n.beating = true
	m.start(func(ctx context.Context) {
		defer func() { n.beating = false }()
		do(ctx)
	})
}

func (m *model) releaseOne() {
	n := m.alive()
	if users := slices.Sorted(maps.Keys(n.holding)); len(users) > 0 {
		m.release(n, rapid.SampledFrom(users).Draw(m.t, "user"), rapid.Bool().Draw(m.t, "keep home"))
	}
}

// release gives up a user whose process has been stopped. The pool lets nobody in meanwhile.
func (m *model) release(n *instanceModel, user string, keepHome bool) {
	if n.entering[user] > 0 || n.releasing[user] {
		return
	}
	delete(n.holding, user)
	n.releasing[user] = true
	m.start(func(ctx context.Context) {
		_ = n.Release(ctx, user, keepHome)
		delete(n.releasing, user)
	})
}

func (m *model) dials() {
	f, n := m.front(), m.alive()
	m.start(func(ctx context.Context) { f.makePlaceable(ctx, n.id) })
}

func (m *model) unreachable() {
	f, user := m.front(), m.user()
	f.blind = rapid.Bool().Draw(m.t, "blind")
	if owner, ok := f.known.owner(user); ok && !f.busy[user] {
		m.start(func(ctx context.Context) { f.Unreachable(ctx, user, owner) })
	}
}

// dialsAgain is what a front does every second.
func (m *model) dialsAgain() {
	f := m.front()
	for _, id := range f.avoided() {
		m.start(func(ctx context.Context) { f.dialAgain(ctx, id) })
	}
}

// maxInstances bounds how many a run has in all.
const maxInstances = 5

func (m *model) empties() { m.must(m.servers[m.at].FlushAll(context.Background()).Err()) }

func (m *model) replicates() {
	if m.at+1 < len(m.servers) {
		m.must(m.replicate())
	}
}

func (m *model) failsOver() {
	if m.at+1 < len(m.servers) {
		m.at++
	}
}

func (m *model) drains() {
	n := m.alive()
	if n.leaving || len(m.instances) >= maxInstances {
		return
	}
	n.leaving = true
	m.start(func(ctx context.Context) { _ = n.Drain(ctx) })
	m.replaced()
}

func (m *model) killed() {
	n := m.alive()
	if len(m.instances) >= maxInstances {
		return
	}
	n.dead = true
	m.finish(n.link, errKilled)
	m.replaced()
}

// replaced starts instances until two can take users.
func (m *model) replaced() {
	able := slices.DeleteFunc(m.living(), func(n *instanceModel) bool { return n.leaving })
	for range 2 - len(able) {
		m.addInstance()
	}
}

// outage cuts everybody off at once and looks who would be admitted by a front's word.
func (m *model) outage() {
	for _, n := range m.living() {
		if !n.link.up || !n.freshLocked() {
			return
		}
	}
	for _, user := range m.users {
		var admit []string
		for _, n := range m.living() {
			if _, held := n.Lease.claims[user]; held && !n.releasing[user] {
				admit = append(admit, n.id)
			}
		}
		if len(admit) > 1 {
			m.fail("in an outage %s would be admitted by %v", user, admit)
		}
	}
}

// scriptsOf are the scripts a test may change, with their sources.
func scriptsOf() map[string]struct {
	script **redis.Script
	source string
} {
	return map[string]struct {
		script **redis.Script
		source string
	}{
		"claim": {&claimScript, epochSource + claimSource}, "beat": {&beatScript, epochSource + beatSource},
		"assert": {&assertScript, epochSource + assertSource}, "own": {&ownScript, epochSource + ownSource},
		"release": {&releaseScript, releaseSource}, "place": {&placeScript, placeSource},
	}
}

func scriptName(args []any) any {
	for name, s := range scriptsOf() {
		if len(args) > 1 && args[1] == (*s.script).Hash() {
			return name
		}
	}
	return args[0]
}

// result is what a command answered, for the trace of a run that failed.
func result(cmd redis.Cmder) any {
	if cmd.Err() != nil {
		return cmd.Err()
	}
	if c, ok := cmd.(*redis.Cmd); ok {
		return c.Val()
	}
	return "ok"
}
