package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"claudepool/infra/testkit"
)

type named struct {
	name  string
	value float64
}

// row is one phase's figures.
type row struct {
	name                  string
	users                 int
	took                  time.Duration
	requested, background int64 // commands
	repeated              int64 // requests
	cpu                   time.Duration
}

type results struct {
	began           time.Time
	load, loadAfter string
	rows            []row
	balance         []named
	bytesPerUser    float64
	warm            int64
	inScripts       []string
}

func newSimulation(ctx context.Context, url string, n sizes) (*simulation, error) {
	s := &simulation{sizes: n, url: url}
	s.homes = make([]atomic.Pointer[instance], n.users)
	var err error
	if s.admin, err = s.client(2); err != nil {
		return nil, err
	}
	return s, s.listen(ctx)
}

// measure runs one phase.
func (s *simulation) measure(ctx context.Context, r *results, name string, users int,
	phase func() (repeated int64, err error)) error {
	before, requested, background := s.info(ctx), s.requested.Load(), s.background.Load()
	began := time.Now()
	repeated, err := phase()
	took := time.Since(began)
	after := s.info(ctx)
	if err == nil && len(after) == 0 {
		err = errors.New("redis-server doesn't tell its figures")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.rows = append(r.rows, row{name: name, users: users, took: took, repeated: repeated,
		requested: s.requested.Load() - requested, background: s.background.Load() - background,
		cpu: time.Duration((after.cpu() - before.cpu()) * float64(time.Second))})
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, took.Round(time.Millisecond))
	return nil
}

// figures are what INFO says, as far as it is numbers; commandstats as <command>.calls and <command>.usec.
type figures map[string]float64

func (s *simulation) info(ctx context.Context) figures {
	text, err := s.admin.Info(ctx, "memory", "cpu", "commandstats").Result()
	if err != nil {
		return nil
	}
	f := figures{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		command, stats := strings.CutPrefix(key, "cmdstat_")
		if !stats {
			f[key], _ = strconv.ParseFloat(value, 64)
			continue
		}
		for part := range strings.SplitSeq(value, ",") {
			name, number, _ := strings.Cut(part, "=")
			f[command+"."+name], _ = strconv.ParseFloat(number, 64)
		}
	}
	return f
}

// cpu is what the thread has used that executes commands, in seconds.
func (f figures) cpu() float64 {
	return f["used_cpu_user_main_thread"] + f["used_cpu_sys_main_thread"]
}

// commandsSince lists what Redis spent its time on, per user.
func (f figures) commandsSince(before figures, users int) []string {
	type spent struct {
		name        string
		calls, usec float64
	}
	var all []spent
	for key := range f {
		if name, ok := strings.CutSuffix(key, ".usec"); ok {
			all = append(all, spent{name, f[name+".calls"] - before[name+".calls"], f[key] - before[key]})
		}
	}
	slices.SortFunc(all, func(a, b spent) int { return int(b.usec - a.usec) })
	var lines []string
	for _, a := range all[:min(len(all), 7)] {
		lines = append(lines, fmt.Sprintf("| %s | %.2f | %.2f |", strings.ToUpper(a.name), a.calls/float64(users),
			a.usec/float64(users)))
	}
	return lines
}

func (r *results) markdown(command string, n sizes) string {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s`\n\n%s, %d CPUs shared by the simulation, redis-server and whatever else ran; %s; commit %s; "+
		"load average before `%s`, after `%s`.\n\n",
		strings.TrimSpace(command), r.began.UTC().Format(time.DateOnly), runtime.NumCPU(),
		testkit.Output("redis-server", "--version"), testkit.Output("git", "rev-parse", "--short", "HEAD"),
		r.load, r.loadAfter)
	fmt.Fprintf(&b, "%d users, %d instances of %d processes, %d fronts, %d requests at a time.\n\n", n.users, n.instances,
		n.capacity, n.fronts, n.workers)
	b.WriteString("| phase | users | seconds | users/s | commands per user | requests repeated | Redis CPU, µs per " +
		"user | Redis CPU, % | other commands/s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, row := range r.rows {
		seconds := row.took.Seconds()
		fmt.Fprintf(&b, "| %s | %d | %.1f | %s | %s | %d | %s | %.0f | %.0f |\n", row.name, row.users, seconds,
			per(float64(row.users), seconds, "%.0f"), per(float64(row.requested), float64(row.users), "%.2f"), row.repeated,
			per(float64(row.cpu.Microseconds()), float64(row.users),
				"%.1f"), 100*row.cpu.Seconds()/seconds, float64(row.background)/seconds)
	}
	fmt.Fprintf(&b, "\nWarm requests by the same front sent %d commands in all. Redis memory: %.0f bytes per "+
		"user.\n\nBalance, the most users of one instance by the mean:", r.warm, r.bytesPerUser)
	for i, at := range r.balance {
		fmt.Fprintf(&b, "%s %.2f %s", []string{"", ","}[min(i, 1)], at.value, at.name)
	}
	fmt.Fprintf(&b, ".\n\nWhat Redis spent its time on while new users came, inside of scripts too (EVALSHA's time "+
		"holds the others'):\n\n| command | calls per user | µs per user |\n|---|--:|--:|\n%s\n",
		strings.Join(r.inScripts, "\n"))
	return b.String()
}

func per(a, b float64, format string) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf(format, a/b)
}
