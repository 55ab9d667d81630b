package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
	"time"

	"github.com/prometheus/procfs"

	"claudepool/infra/testkit"
	"claudepool/pool/claude"
)

//go:embed BENCH.md.tmpl
var form string

// report is all that was measured, and where.
type report struct {
	Quick          bool
	Plan           plan
	Commit, CLI    string
	Machine, Redis string
	Began          time.Time
	Took           time.Duration
	Loads          [2]string // of the machine, before and after

	New, Later, Tens []requests
	Bursts           []burst
	Idle             idleCost
	Starts           []started
	Added            added
	Throughput       throughput
}

func newReport(l *lab, isQuick bool) *report {
	r := &report{Quick: isQuick, Plan: l.plan, Machine: machine(), Began: time.Now(), CLI: "claude " + claude.Version,
		Commit: testkit.Output("git", "describe", "--always", "--dirty")}
	r.Loads[0] = testkit.LoadAverages()
	if isQuick {
		r.CLI = "the scripted CLI"
	}
	r.Redis = "an embedded Redis"
	if l.redis != "" {
		r.Redis = "a redis-server of its own"
	}
	return r
}

func (r *report) end() {
	r.Took, r.Loads[1] = time.Since(r.Began), testkit.LoadAverages()
}

func machine() string {
	text := fmt.Sprintf("%d CPUs, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return text
	}
	if cpus, err := fs.CPUInfo(); err == nil && len(cpus) > 0 {
		text = cpus[0].ModelName + ", " + text
	}
	if info, err := fs.Meminfo(); err == nil && info.MemTotal != nil {
		text += fmt.Sprintf(", %d GiB of memory", *info.MemTotal>>20)
	}
	return text
}

// write writes the report and its picture below folder.
func (r *report) write(folder string) error {
	t, err := template.New("BENCH.md").Funcs(template.FuncMap{
		"ms":     func(d time.Duration) string { return fmt.Sprintf("%.1f", millis(d)) },
		"us":     func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Microsecond)) },
		"s":      func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) },
		"x":      func(a, b time.Duration) string { return fmt.Sprintf("%.2f", ratio(a, b)) },
		"minus":  func(a, b time.Duration) time.Duration { return a - b },
		"median": median[time.Duration],
		"p90":    func(values []time.Duration) time.Duration { return quantile(values, 0.9) },
		"rate":   func(values []float64) string { return fmt.Sprintf("%.0f", median(values)) },
		"mib":    func(values []int64) string { return fmt.Sprintf("%.0f", float64(median(values))/(1<<20)) },
		"p100":   func(values []time.Duration) time.Duration { return quantile(values, 1) },
		"inc":    func(i int) int { return i + 1 },
		"percent": func(cpu float64, c idleCost) string {
			return fmt.Sprintf("%.3f", 100*cpu/c.Over.Seconds()/float64(c.Processes))
		},
		"f": func(v float64) string { return fmt.Sprintf("%.2f", v) },
	}).Parse(form)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(folder, "infra/bench"), 0o755); err != nil {
		return err
	}
	var text strings.Builder
	if err := t.Execute(&text, r); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(folder, "BENCH.md"), []byte(text.String()), 0o644),
		r.draw(filepath.Join(folder, "infra/bench/first-token.svg")))
}

// Way is one way's part of a table.
type Way struct {
	Name                      string
	First, Later, Total, Rest time.Duration // Rest: all but the first request
	Speedup                   float64       // against the first way of the table
}

// Ten is the table of ten requests of one user: medians over the users.
func (r requests) Ten() []Way {
	var rows []Way
	for way, name := range wayNames {
		var totals, rests []time.Duration
		n := len(r.later[way].Total) / max(1, len(r.first[way].Total))
		for i, first := range r.first[way].Total {
			var rest time.Duration
			for _, d := range r.later[way].Total[i*n : (i+1)*n] {
				rest += d
			}
			rests, totals = append(rests, rest), append(totals, first+rest)
		}
		row := Way{Name: name, First: median(r.first[way].Total), Later: median(r.later[way].Total), Rest: median(rests),
			Total: median(totals)}
		row.Speedup = 1
		if way > 0 {
			row.Speedup = ratio(rows[0].Total, row.Total)
		}
		rows = append(rows, row)
	}
	return rows
}

// OfPooled is the time of ten requests with standbys by that without, OfSpawned by that of a spawn per request.
func (r requests) OfPooled() float64 {
	rows := r.Ten()
	return ratio(rows[standby].Total, rows[pooled].Total)
}

func (r requests) OfSpawned() float64 {
	rows := r.Ten()
	return ratio(rows[standby].Total, rows[spawned].Total)
}

// What the tables of first tokens take from a run, by way.
func (r requests) Model() string              { return fmt.Sprintf("%d ms", r.model.Milliseconds()) }
func (r requests) Cold() []time.Duration      { return r.first[pooled].First }
func (r requests) Standby() []time.Duration   { return r.first[standby].First }
func (r requests) Reused() []time.Duration    { return r.later[standby].First }
func (r requests) Piped() []time.Duration     { return r.later[piped].First }
func (r requests) ColdPiped() []time.Duration { return r.first[piped].First }
