package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"
)

const (
	denseUsers     = 300
	denseProcesses = 40 // with those that are started in advance
	// denseAnswer is what each user asks for: 200 tokens in two seconds.
	denseAnswer = "[[words=200]] [[delay=10ms]] turn "
	// memoryPause is the time between two looks at the memory.
	memoryPause = 5 * time.Second
)

// denseRates are how many turns begin in a second, of all users together.
var denseRates = []float64{0.5, 1}

// crowding is what the turns of more users than there are processes took, at one rate.
type crowding struct {
	first []time.Duration
	kinds map[string]int // how they found their processes
	cpu   time.Duration  // of the whole machine
	peak  int64          // bytes: proportional set size of the service with its processes
}

// arrival is a turn that is to begin.
type arrival struct {
	at   time.Duration
	user int
}

// arrivals come at random, the same for both sides.
func arrivals(rate float64, d time.Duration, users int) (all []arrival) {
	random := rand.New(rand.NewPCG(uint64(1000*rate), 1))
	for at := 0.0; ; {
		at += random.ExpFloat64() / rate
		when := time.Duration(at * float64(time.Second))
		if when >= d {
			return all
		}
		all = append(all, arrival{when, random.IntN(users)})
	}
}

// crowd has both sides serve the same turns, one after the other, and prints what they took.
func (l *lab) crowd(ctx context.Context, o options) error {
	sides, err := l.openSides(ctx, o)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(o.stdout, "base %s, now %s; %d users, MAX_PROCESSES=%d, %s at each rate; %s\n\n", sides[base].commit,
		sides[now].commit, denseUsers, denseProcesses, o.dense, machine())
	fmt.Fprintln(table, "turns/s\tside\tturns\tfirst token p50\tp95\tprocesses\tCPU of the machine\tpeak PSS")
	for _, rate := range denseRates {
		for _, s := range sides {
			c, err := l.crowdAt(ctx, s, arrivals(rate, o.dense, denseUsers))
			if err != nil {
				return fmt.Errorf("%s (%s): %w", s.name, s.commit, err)
			}
			c.write(table, rate, s.name)
			l.say("density: %g turns a second: %s", rate, s.name)
		}
	}
	return table.Flush()
}

func (c *crowding) write(table io.Writer, rate float64, side string) {
	fmt.Fprintf(table, "%g\t%s\t%d\t%.0f ms\t%.0f ms\t%v\t%.0f s\t%d MiB\n", rate, side, len(c.first),
		millis(median(c.first)), millis(quantile(c.first, 0.95)), c.kinds, c.cpu.Seconds(), c.peak>>20)
}

// crowdAt has a new service of a side serve the turns.
func (l *lab) crowdAt(ctx context.Context, of side, turns []arrival) (*crowding, error) {
	s, err := l.serve(ctx, of.local, of.cli, 2, fmt.Sprint("MAX_PROCESSES=", denseProcesses))
	if err != nil {
		return nil, err
	}
	defer s.stop()
	users := make([]*user, denseUsers)
	for i := range users {
		users[i] = s.newUser()
	}
	c := &crowding{kinds: make(map[string]int)}
	before, err := machineCPU()
	if err != nil {
		return nil, err
	}
	looking, stop := context.WithCancel(ctx)
	var looks sync.WaitGroup
	looks.Go(func() { c.watchMemory(looking, s.cmd.Process.Pid) })
	err = c.serve(ctx, users, turns)
	stop()
	looks.Wait()
	if err != nil {
		return nil, err
	}
	after, err := machineCPU()
	c.cpu = after - before
	return c, err
}

// serve has each turn begin at its time.
func (c *crowding) serve(ctx context.Context, users []*user, turns []arrival) error {
	var mu sync.Mutex // guards c
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for i, turn := range turns {
		select {
		case <-time.After(time.Until(began.Add(turn.at))):
		case <-ctx.Done():
			return group.Wait()
		}
		group.Go(func() error {
			got, err := users[turn.user].ask(ctx, denseAnswer+strconv.Itoa(i))
			mu.Lock()
			defer mu.Unlock()
			c.first = append(c.first, got.first)
			c.kinds[got.process]++
			return err
		})
	}
	return group.Wait()
}

// machineCPU is the time that the machine's processors have worked.
func machineCPU() (time.Duration, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, err
	}
	stat, err := fs.Stat()
	t := stat.CPUTotal
	return time.Duration((t.User + t.Nice + t.System + t.IRQ + t.SoftIRQ) * float64(time.Second)), err
}

// watchMemory follows how much memory a process takes with all below it.
func (c *crowding) watchMemory(ctx context.Context, pid int) {
	for ctx.Err() == nil {
		c.peak = max(c.peak, familyMemory(pid))
		select {
		case <-time.After(memoryPause):
		case <-ctx.Done():
		}
	}
}

// familyMemory is the proportional set size of a process and all below it. Who ends meanwhile has none.
func familyMemory(pid int) (sum int64) {
	if p, err := procfs.NewProc(pid); err == nil {
		if rollup, err := p.ProcSMapsRollup(); err == nil {
			sum = int64(rollup.Pss)
		}
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				sum += familyMemory(n)
			}
		}
	}
	return sum
}
