package main

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"text/template"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"

	"claudepool/infra/testkit"
)

//go:embed LOAD.md.tmpl
var loadForm string

// loadPlan is how much one instance has to carry.
type loadPlan struct {
	Held    int // processes that wait for their users' next requests
	Streams int // that run at once, of Events events each
	Events  int
	Turns   int // of users who come and go
	Users   int // of them at a time
	Each    int // turns of one, before another comes in its place
	Idle    time.Duration
}

var (
	fullLoad = loadPlan{Held: 500, Streams: 200, Events: 2000, Turns: 100_000, Users: 16, Each: 100,
		Idle: 2 * time.Second}
	quickLoad = loadPlan{Held: 4, Streams: 3, Events: 100, Turns: 60, Users: 4, Each: 5, Idle: 200 * time.Millisecond}
)

// state is what the service, without its processes, takes at one moment.
type state struct {
	When       string
	Processes  int
	Heap, RSS  int64 // bytes; the heap after a garbage collection, with stacks
	Goroutines int
	Files      int
}

// loadReport is what the load led to.
type loadReport struct {
	Quick         bool
	Plan          loadPlan
	Machine, Load string
	Began         time.Time

	Held    []state
	Churned []state
	Turns   int
	Took    time.Duration
	Kinds   map[string]int // how the turns found their processes
	Reaped  int
}

// PerProcess is what holding one more process costs the service, in KiB.
func (r loadReport) PerProcess() float64 {
	return float64(r.Held[1].Heap-r.Held[0].Heap) / float64(r.Plan.Held) / 1024
}

// underLoad runs everything with the scripted CLI and writes LOAD.md.
func (l *lab) underLoad(ctx context.Context, plan loadPlan, isQuick bool, out string) error {
	r := &loadReport{Quick: isQuick, Plan: plan, Machine: machine(), Load: testkit.LoadAverages(), Began: time.Now()}
	if err := l.hold(ctx, r); err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	if err := l.churn(ctx, r); err != nil {
		return fmt.Errorf("churn: %w", err)
	}
	t, err := template.New("LOAD.md").Funcs(template.FuncMap{
		"mib": func(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) },
		"f":   func(v float64) string { return fmt.Sprintf("%.1f", v) },
	}).Parse(loadForm)
	if err != nil {
		return err
	}
	var text strings.Builder
	if err := t.Execute(&text, r); err != nil {
		return err
	}
	folder := filepath.Join(out, "infra/bench")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "LOAD.md"), []byte(text.String()), 0o644)
}

// hold has many users, one turn each, whose processes are kept; then some of them stream at once.
func (l *lab) hold(ctx context.Context, r *loadReport) error {
	s, err := l.startService(ctx, l.scripted, 0, "IDLE_TIMEOUT=1h", "PARKED=0", // which keeps places free
		fmt.Sprint("MAX_PROCESSES=", r.Plan.Held))
	if err != nil {
		return err
	}
	defer s.stop()
	note := func(when string, processes int) error {
		err := await(ctx, "the stats", func() (bool, error) {
			stats, err := s.Stats(ctx)
			return stats.PoolSize == processes, err
		})
		if err != nil {
			return err
		}
		at, err := s.state(ctx, when)
		r.Held = append(r.Held, at)
		l.say("load: %s: %+v", when, at)
		return err
	}
	if err := note("before", 0); err != nil {
		return err
	}
	users := make([]*user, r.Plan.Held)
	for i := range users {
		users[i] = s.newUser()
	}
	if err := forEachUser(ctx, 8, users, func(ctx context.Context, u *user) error {
		_, err := u.ask(ctx, events(1))
		return err
	}); err != nil {
		return err
	}
	s.HTTP.CloseIdleConnections()
	if err := note(fmt.Sprintf("%d processes held", r.Plan.Held), r.Plan.Held); err != nil {
		return err
	}
	err = forEachUser(ctx, r.Plan.Streams, users[:r.Plan.Streams], func(ctx context.Context, u *user) error {
		_, err := u.ask(ctx, events(r.Plan.Events))
		return err
	})
	if err != nil {
		return err
	}
	s.HTTP.CloseIdleConnections()
	return note(fmt.Sprintf("after %d streams of %d events at once", r.Plan.Streams, r.Plan.Events), r.Plan.Held)
}

// forEachUser does something for all users, so many at a time.
func forEachUser(ctx context.Context, atOnce int, users []*user, do func(context.Context, *user) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, u := range users {
		group.Go(func() error { return do(ctx, u) })
	}
	return group.Wait()
}

// churn has users come and go for whom processes are started, used, reaped and resumed.
func (l *lab) churn(ctx context.Context, r *loadReport) error {
	s, err := l.startService(ctx, l.scripted, 2, "IDLE_TIMEOUT="+r.Plan.Idle.String(), "CLEANUP_INTERVAL=1s",
		fmt.Sprint("MAX_PROCESSES=", 2*r.Plan.Users+8))
	if err != nil {
		return err
	}
	defer s.stop()
	crew := &crew{service: s, plan: r.Plan, kinds: make(map[string]int), users: make([]*visitor, r.Plan.Users)}
	if err := crew.turns(ctx, r.Plan.Turns/100, 8); err != nil { // what is made once is there then
		return err
	}
	if err := l.noteEmpty(ctx, s, r, "before"); err != nil {
		return err
	}
	began := time.Now()
	if err := crew.turns(ctx, r.Plan.Turns, 8); err != nil {
		return err
	}
	r.Took, r.Turns, r.Kinds = time.Since(began), r.Plan.Turns, crew.kinds
	return l.noteEmpty(ctx, s, r, fmt.Sprintf("after %d turns", r.Turns))
}

// noteEmpty notes the state once every process has been reaped.
func (l *lab) noteEmpty(ctx context.Context, s *service, r *loadReport, when string) error {
	s.HTTP.CloseIdleConnections()
	err := await(ctx, "the reaping of all processes", func() (bool, error) {
		stats, err := s.Stats(ctx)
		r.Reaped = int(stats.Cleanup.TotalCleaned)
		return err == nil && stats.PoolSize == 0, err
	})
	if err != nil {
		return err
	}
	time.Sleep(3 * r.Plan.Idle)
	at, err := s.state(ctx, when)
	r.Churned = append(r.Churned, at)
	l.say("load: %s: %+v", when, at)
	return err
}

// crew is the users who are there at a time.
type crew struct {
	service *service
	plan    loadPlan

	mu    sync.Mutex
	users []*visitor
	kinds map[string]int
}

type visitor struct {
	mu   sync.Mutex // one turn at a time
	user *user
	left int
}

func (c *crew) turns(ctx context.Context, n, atOnce int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for range n {
		group.Go(func() error { return c.turn(ctx) })
	}
	return group.Wait()
}

func (c *crew) turn(ctx context.Context) error {
	v := c.pick()
	v.mu.Lock()
	defer v.mu.Unlock()
	got, err := v.user.ask(ctx, events(1))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[got.process]++
	return nil
}

// pick returns any of the users; one who has had all turns is another from now on.
func (c *crew) pick() *visitor {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := rand.N(len(c.users))
	if c.users[at] == nil || c.users[at].left == 0 {
		c.users[at] = &visitor{user: c.service.newUser(), left: c.plan.Each}
	}
	c.users[at].left--
	return c.users[at]
}

var (
	heapLine  = regexp.MustCompile(`(?m)^# HeapInuse = (\d+)$`)
	stackLine = regexp.MustCompile(`(?m)^# Stack = (\d+) /`)
	countLine = regexp.MustCompile(`^goroutine profile: total (\d+)`)
)

// state looks at the service from outside.
func (s *service) state(ctx context.Context, when string) (state, error) {
	at := state{When: when}
	stats, err := s.Stats(ctx)
	if err != nil {
		return at, err
	}
	at.Processes = stats.PoolSize
	heap, err := s.Get(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return at, err
	}
	at.Heap = numberIn(heapLine, heap) + numberIn(stackLine, heap)
	goroutines, err := s.Get(ctx, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return at, err
	}
	at.Goroutines = int(numberIn(countLine, goroutines))
	p, err := procfs.NewProc(s.cmd.Process.Pid)
	if err != nil {
		return at, err
	}
	if at.Files, err = p.FileDescriptorsLen(); err != nil {
		return at, err
	}
	status, err := p.NewStatus()
	at.RSS = int64(status.VmRSS)
	return at, err
}

func numberIn(line *regexp.Regexp, text []byte) int64 {
	found := line.FindSubmatch(text)
	if found == nil {
		return 0
	}
	n, _ := strconv.ParseInt(string(found[1]), 10, 64)
	return n
}
