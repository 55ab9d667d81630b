package main

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"claudepool/infra/testkit"
)

// results are those of a run.
type results struct {
	options options
	began   time.Time
	rows    []*row
	notes   []string
}

func newResults(o options) *results { return &results{options: o, began: time.Now()} }

func (r *results) add(one *row) {
	r.rows = append(r.rows, one)
	fmt.Printf("%s  %-60s answered %4d refused %3d failed %3d cut %3d split %d bad %d recovered %.1f s\n",
		time.Now().UTC().Format(time.TimeOnly),
		one.name, one.answered, one.refused, one.failed, one.cut, one.split, one.bad(), one.recovered.Seconds())
	for why, n := range one.reasons {
		fmt.Printf("          %4d × %s\n", n, why)
	}
}

func (r *results) bad() (n int) {
	for _, one := range r.rows {
		n += one.bad()
	}
	return n
}

func (r *results) markdown(command string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s`\n\n%s, %s from the first fault to the end, %d CPUs shared by the harness, the service and "+
		"whatever else ran; commit %s.\n\n",
		strings.TrimSpace(command), r.began.UTC().Format(time.DateOnly), time.Since(r.began).Round(time.Second),
		runtime.NumCPU(),
		testkit.Output("git", "rev-parse", "--short", "HEAD"))
	b.WriteString("| fault | turns answered | taken up again | refused | failed | cut off with the front | wrong " +
		"answers | lost turns | forgotten | run twice | disturbed | double processes | without a lease | split | left " +
		"over | late | served again after, s |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	sum := &row{name: "**all**"}
	for _, one := range r.rows {
		one.write(&b)
		sum.add(one)
	}
	sum.write(&b)
	if len(r.notes) > 0 {
		fmt.Fprintf(&b, "\nWhat must not happen and did:\n\n- %s\n", strings.Join(r.notes, "\n- "))
	}
	return b.String()
}

func (r *row) write(b *strings.Builder) {
	fmt.Fprintf(b, "| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %.1f |\n", r.name,
		r.answered, r.resumed, r.refused, r.failed, r.cut,
		r.wrong, r.lost, r.forgotten, r.twice, r.disturbed, r.double, r.stale, r.split, r.left, r.late, r.recovered.Seconds())
}

// add sums up; of the times it keeps the longest.
func (r *row) add(o *row) {
	r.answered += o.answered
	r.resumed += o.resumed
	r.refused += o.refused
	r.failed += o.failed
	r.cut += o.cut
	r.wrong += o.wrong
	r.lost += o.lost
	r.forgotten += o.forgotten
	r.twice += o.twice
	r.disturbed += o.disturbed
	r.double += o.double
	r.stale += o.stale
	r.split += o.split
	r.left += o.left
	r.late += o.late
	r.recovered = max(r.recovered, o.recovered)
}
