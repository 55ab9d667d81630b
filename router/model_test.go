package router

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"
)

// The model of ownership runs the real Go code and the real scripts on real servers, and decides itself when a command
// is executed, when its answer arrives, and what goes wrong on the way: at every command of every process another one
// may go on, so all interleavings can occur. Time is simulated on both sides of the wire. Of the scripts one word is
// changed: of the candidates the first two are compared and not two random ones, so that a seed reproduces a run.
//
// Faults: an instance says that nothing can begin there; a front reaches an instance no more, and asks it to give users
// up; a command or its answer is lost, a command is executed twice, or long after its sender gave up; any process
// stands still at any of its commands while time passes; an instance or a front is cut off from Redis; an instance is
// killed; Redis is emptied, or fails over to a replica that may lag behind; an instance's clock is slow by a tenth;
// there are no other instances whose beats come all the time.
//
// Safety, after every step, for every user: at most one instance would admit a turn on its own word, also if a front
// says that Redis is away where the instance knows better. Cut-off processes are no exception: the fence has fallen
// before anybody else is placed. An instance that has told Redis that it drains is given nobody. While nobody reaches
// Redis, and all did until then, at most one instance admits by a front's word.
//
// Liveness: after the last fault, within horizon, every front finds the same instance for every user, and that one
// admits; a process whose user has moved has been told to stop; and once all is released, no owner entry is left.
//
// Not covered: a split network, where a front that doesn't reach Redis vouches for an owner that others have replaced.
const horizon = 40 * time.Second

func TestModel_NoUserIsAdmittedByTwoInstances(t *testing.T) {
	longRuns(t)
	c := newCluster(t, 3)
	deterministic(t)
	c.load(t)
	rapid.Check(t, func(t *rapid.T) { newModel(t, c, drawFaults(t)).run() })
}

// longRuns makes runs long enough for a fault's late consequences, unless the command line says otherwise.
func longRuns(t *testing.T) {
	setFlag(t, "rapid.steps", "100")
}

// alone has each question asked at once: an op that waits for another's command would not be seen to wait. Those that
// are asked together are answered as if each had been asked alone, one after the other.
const alone = 100

// setFlag sets a flag that still has its default, for the time of the test.
func setFlag(t *testing.T, name, value string) {
	f := flag.Lookup(name)
	if before := f.Value.String(); before == f.DefValue {
		_ = f.Value.Set(value)
		t.Cleanup(func() { _ = f.Value.Set(before) })
	}
}

// model is one run.
type model struct {
	*network
	t         *rapid.T
	users     []string
	fronts    []*frontModel
	instances []*instanceModel    // the dead too
	draining  map[string]bool     // by instance: a beat that Redis executed said so
	full      map[string]bool     // likewise
	claims    map[string]struct{} // claim numbers seen
	actions   []string
}

type frontModel struct {
	*Router
	link  *link
	blind bool            // reaches no instance
	busy  map[string]bool // one request of a user at a time
}

// instanceModel is an instance with what its pool would know.
type instanceModel struct {
	*Lease
	link      *link
	slow      bool // its clock
	dead      bool
	leaving   bool // the pool drains
	full      bool // no conversation can begin
	beating   bool // a round of Run is under way
	entering  map[string]int
	holding   map[string]bool // a process of the user runs
	releasing map[string]bool

	mu     sync.Mutex // guards evicts
	evicts map[string]bool
}

func newModel(t *rapid.T, c *cluster, faults []string) *model {
	m := &model{t: t, users: []string{"ada", "bob"}, draining: make(map[string]bool), full: make(map[string]bool),
		claims: make(map[string]struct{})}
	m.network = &network{cluster: c, now: time.Hour, passed: time.Now(), sent: m.watch,
		others: !slices.Contains(faults, silence)}
	for _, server := range c.servers {
		m.must(server.FlushAll(context.Background()).Err())
	}
	m.must(EndSettling(context.Background(), c.servers[0]))
	for range 2 {
		m.addFront()
		m.addInstance()
	}
	m.actions = weighted(faults)
	t.Cleanup(func() { m.finish(nil, errLost) })
	if rapid.Bool().Draw(t, "warm") {
		m.round()
	}
	return m
}

func (m *model) must(err error) {
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) addFront() {
	link, client := m.newLink()
	f := &frontModel{Router: newRouter(client), link: link, busy: make(map[string]bool)}
	f.firstWait, f.asker.parallel = 0, alone
	f.opts.Reach = func(ctx context.Context, owner Owner) error {
		if f.blind || m.instance(owner.Instance).dead {
			return errLost
		}
		return nil
	}
	m.fronts = append(m.fronts, f)
}

func (m *model) addInstance() {
	link, client := m.newLink()
	n := &instanceModel{link: link, slow: rapid.Bool().Draw(m.t, "slow clock"), entering: make(map[string]int),
		holding: make(map[string]bool), releasing: make(map[string]bool), evicts: make(map[string]bool)}
	n.Lease = NewLease(client, LeaseOptions{Logger: quiet, Addr: m.addr, Capacity: 4, HomeTTL: time.Hour,
		Load: func() (int, int) { return len(n.holding), len(n.holding) },
		Full: func() bool { return n.full },
		Evict: func(user string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.evicts[user] = true
		},
		Clock: func() time.Duration {
			if n.slow {
				return m.now * 9 / 10
			}
			return m.now
		}})
	n.id, n.asker.parallel = fmt.Sprint("instance", len(m.instances)), alone
	m.instances = append(m.instances, n)
}

// watch keeps what executed commands say.
func (m *model) watch(cmd redis.Cmder) {
	args := cmd.Args()
	m.t.Log(scriptName(args), args[1:], "=>", result(cmd))
	if len(args) < 21 || args[1] != beatScript.Hash() || cmd.Err() != nil {
		return
	}
	if answer, _ := cmd.(*redis.Cmd).Slice(); len(answer) > 0 && answer[0] == "ok" {
		m.checkPlacements() // they were made before
		id, madeAnew := args[10].(string), args[16] == ""
		m.draining[id] = args[15] == 1 || m.draining[id] && !madeAnew
		m.full[id] = args[20] == 1
	}
}

func (m *model) run() {
	m.t.Repeat(map[string]func(*rapid.T){
		"": func(*rapid.T) { m.check() },
		"step": func(t *rapid.T) {
			m.act(m.actions[rapid.IntRange(0, len(m.actions)-1).Draw(t, "action")])
			if time.Since(m.passed) > quantum/4 {
				m.passes(0)
			}
		},
	})
	m.recovers()
}

// discardIfStalled has rapid draw another case where the machine stood still for longer than the model's clock allows.
func (m *model) discardIfStalled() {
	if m.stalled() {
		m.t.Skip("the machine stood still")
	}
}

func (m *model) passes(d time.Duration) {
	m.discardIfStalled()
	m.must(m.pass(d))
	m.changed = m.changed || d > 0
	for _, f := range m.fronts {
		for id, a := range f.avoid {
			f.avoid[id] = avoidance{a.until.Add(-d), a.gone.Add(-d), a.failed}
		}
	}
}

// check is the safety property.
func (m *model) check() {
	if !m.changed {
		return
	}
	m.changed = false
	run := m.servers[m.at].HGet(context.Background(), epochKey, "run").Val()
	for _, user := range m.users {
		var admit []string
		for _, n := range m.instances {
			if n.admits(user, run == m.runs[m.at]) {
				admit = append(admit, n.id)
			}
		}
		if len(admit) > 1 {
			m.fail("%s would be admitted by %v", user, admit)
		}
	}
	m.checkPlacements()
}

// checkPlacements looks at claim numbers when they are first seen.
func (m *model) checkPlacements() {
	ctx, pipe := context.Background(), m.servers[m.at].Pipeline()
	entries, homes := make(map[string]*redis.StringCmd), make(map[string]*redis.StringCmd)
	for _, user := range m.users {
		entries[user], homes[user] = pipe.Get(ctx, ownerKey(user)), pipe.Get(ctx, homeKey(user))
	}
	_, _ = pipe.Exec(ctx) // a missing key is an error
	for _, user := range m.users {
		entry := strings.Fields(entries[user].Val())
		if len(entry) != 3 {
			continue
		}
		_, known := m.claims[entry[1]]
		m.claims[entry[1]] = struct{}{}
		switch {
		case known:
		case m.draining[entry[0]]:
			m.fail("%s was placed on the draining %s", user, entry[0])
		case m.full[entry[0]] && homes[user].Val() != entry[0]:
			m.fail("%s was placed on the full %s, which is not its home", user, entry[0])
		}
	}
}

func (m *model) fail(format string, args ...any) {
	m.discardIfStalled()
	m.t.Fatalf(format, args...)
}

// admits asks a copy of the lease, so that asking changes nothing. mayAsk: no script has yet to begin a new epoch.
func (n *instanceModel) admits(user string, mayAsk bool) bool {
	if n.dead || n.releasing[user] {
		return false
	}
	l := NewLease(n.redis, n.opts)
	l.id, l.renewed, l.alive, l.epoch = n.id, n.renewed, n.alive, n.epoch
	l.claims, l.released, l.redisAway = maps.Clone(n.Lease.claims), maps.Clone(n.released), n.redisAway
	if _, held := l.claims[user]; !held && !mayAsk {
		return false
	}
	return l.Admit(context.Background(), user, !l.redisAway) == nil
}

// recovers is the liveness property.
func (m *model) recovers() {
	for _, f := range m.fronts {
		f.link.up, f.blind = true, false
	}
	for _, n := range m.instances {
		n.link.up, n.full = !n.dead, false
	}
	m.finish(nil, nil)
	for len(m.late) > 0 {
		m.lateCommand()
	}
	if !slices.ContainsFunc(m.instances, func(n *instanceModel) bool { return !n.dead && !n.leaving }) {
		m.addInstance()
	}
	for until := m.now + horizon; !m.round(); m.passes(time.Second) {
		m.check()
		if m.now >= until {
			m.fail("not everybody is served %v after the last fault: %s", horizon, m.describe())
		}
	}
	m.check()
	m.leavesNothing()
}

// round is what everybody does in a second without faults. It reports whether every user is served.
func (m *model) round() bool {
	ctx := context.Background()
	for _, n := range m.living() {
		_ = n.beat(ctx)
		for _, user := range m.users {
			if n.holding[user] && (n.leaving || n.evicted(user)) {
				m.release(n, user, false)
				m.finish(nil, nil)
			}
		}
		if n.leaving && len(n.holding) == 0 {
			m.must(n.Close(ctx, true))
			n.dead = true
		}
	}
	served := true
	for _, f := range m.fronts {
		f.noteRedis(nil)
		for _, id := range m.servers[m.at].SMembers(ctx, pendingKey).Val() {
			f.makePlaceable(ctx, id)
		}
		for _, id := range f.avoided() {
			f.dialAgain(ctx, id)
		}
		for _, user := range m.users {
			m.request(f, user)
			m.finish(nil, nil)
			owner, known := f.known.owner(user)
			first, _ := m.fronts[0].known.owner(user)
			n := m.instance(owner.Instance)
			served = served && known && owner.Instance == first.Instance && n != nil && n.holding[user] && n.admits(user, true)
		}
	}
	return served
}

func (n *instanceModel) evicted(user string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := n.evicts[user]
	delete(n.evicts, user)
	return asked
}

// leavesNothing gives everybody up.
func (m *model) leavesNothing() {
	for _, n := range m.living() {
		for user := range n.holding {
			_, held := n.Lease.claims[user]
			deadline := time.Now().Add(quantum)
			for !held && !n.evicted(user) {
				if time.Now().After(deadline) {
					m.fail("%s runs a process of %s, who has moved", n.id, user)
				}
				time.Sleep(time.Millisecond) // the wish is carried by a goroutine of its own
			}
			m.must(n.Release(context.Background(), user, false))
		}
	}
	for _, user := range m.users {
		if entry := m.servers[m.at].Get(context.Background(), ownerKey(user)).Val(); entry != "" {
			m.fail("%s was released and is owned: %s", user, entry)
		}
	}
}

func (m *model) living() []*instanceModel {
	return slices.DeleteFunc(slices.Clone(m.instances), func(n *instanceModel) bool { return n.dead })
}

func (m *model) instance(id string) *instanceModel {
	i := slices.IndexFunc(m.instances, func(n *instanceModel) bool { return n.id == id })
	if i < 0 {
		return nil
	}
	return m.instances[i]
}

func (m *model) describe() string {
	ctx, s := context.Background(), m.servers[m.at]
	text := fmt.Sprint("candidates ", s.ZRange(ctx, candidatesKey, 0, -1).Val(), " epoch ", s.HGetAll(ctx, epochKey).Val())
	for _, user := range m.users {
		text += fmt.Sprintf("; %s: %s", user, s.Get(ctx, ownerKey(user)).Val())
	}
	for _, n := range m.instances {
		text += fmt.Sprintf("; %s: dead %t leaving %t epoch %q holds %v", n.id, n.dead, n.leaving, n.epoch, n.Lease.claims)
	}
	return text
}

var errKilled = errors.New("killed")
