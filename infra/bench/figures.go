package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"claudepool/pool/claude"
)

// figure is what both sides took for one kind of thing, in rounds of pairs. More is slower.
type figure struct{ rounds [][]pair }

func (f *figure) add(round int, p pair) {
	for len(f.rounds) <= round {
		f.rounds = append(f.rounds, nil)
	}
	f.rounds[round] = append(f.rounds[round], p)
}

// of are one side's values.
func (f *figure) of(side int) []float64 {
	var all []float64
	for _, pairs := range f.rounds {
		for _, p := range pairs {
			all = append(all, p[side])
		}
	}
	return all
}

// timed are the times of requests.
type timed struct{ first, total figure }

func (t *timed) add(round int, got [2]sample) {
	t.first.add(round, pair{float64(got[base].first), float64(got[now].first)})
	t.total.add(round, pair{float64(got[base].total), float64(got[now].total)})
}

// head tells what was compared, and where.
func (c *comparison) head(isQuick bool, took time.Duration, loadBefore, loadAfter string) string {
	cli := "claude " + claude.Version + " for new users, the scripted one for short requests and streams"
	if isQuick {
		cli = "the scripted one. This was -quick: the numbers mean nothing"
	}
	redis := "an embedded Redis each"
	if c.redis != "" {
		redis = "a redis-server of its own"
	}
	return strings.Join([]string{
		"base: " + c.sides[base].commit,
		"now:  " + c.sides[now].commit,
		"CLI:  " + cli,
		"on:   " + machine() + ", " + redis,
		fmt.Sprintf("load averages at the start %s, at the end %s; took %s", loadBefore, loadAfter, took.Round(time.Second)),
		fmt.Sprintf("new users who found no standby: %d and %d of %d",
			c.missed[base], c.missed[now], len(c.news.first.of(base))),
	}, "\n") + "\n\n"
}

// write prints the table. A ratio above 1 is slower, and "no slower by 5 %" means that the interval lies below 1.05.
func (c *comparison) write(out io.Writer, head string) error {
	if _, err := io.WriteString(out, head); err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "figure\tbase\tnow\tratio\t95 % interval\tpairs\trounds\tverdict")
	for _, row := range c.rows() {
		was, is := row.of.of(base), row.of.of(now)
		i := compare(row.of.rounds, c.sizes.resamples)
		fmt.Fprintf(table, "%s\t%s\t%s\t%.3f\t%.3f to %.3f\t%d\t%d\t%s\n", row.name,
			row.show(median(was)), row.show(median(is)), i.ratio, i.low, i.high, len(was), len(row.of.rounds), i.verdict())
	}
	return table.Flush()
}

// row is a line of the table.
type row struct {
	name string
	of   figure
	show func(float64) string
}

func (c *comparison) rows() []row {
	rows := []row{
		{"new user, first token", c.news.first, duration},
		{"new user, total", c.news.total, duration},
	}
	for i, beginning := range beginnings {
		rows = append(rows, row{beginning.name + ", first token", c.begun[i].first, duration})
	}
	return append(rows, []row{
		{"later request, first token", c.laters.first, duration},
		{"later request, total", c.laters.total, duration},
		{"short request, first token", c.shorts.first, duration},
		{"short request, total", c.shorts.total, duration},
		{"short request, CPU time of the service", c.requestCPU, duration},
		{"short request, allocations", c.requestAllocs, count},
		{"event of many streams, time", c.eventTime, duration},
		{"event of many streams, CPU time of the service", c.eventCPU, duration},
	}...)
}

// duration is one of so many nanoseconds, to three digits.
func duration(ns float64) string {
	d := time.Duration(ns)
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.3g s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3g ms", millis(d))
	}
	return fmt.Sprintf("%.3g µs", ns/float64(time.Microsecond))
}

func count(n float64) string { return fmt.Sprintf("%.0f", n) }
