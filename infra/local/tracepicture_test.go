package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"claudepool/infra/testkit/collector"
)

// placed is a span with how deep it is below the client's, and how long nothing went on before its request.
type placed struct {
	collector.Span
	depth int
	idle  time.Duration
}

// below are spans below their parents, in the order in which they began.
func below(spans []collector.Span) (all []placed) {
	slices.SortFunc(spans, func(a, b collector.Span) int { return a.Begin.Compare(b.Begin) })
	var idle time.Duration
	var last time.Time
	var add func(parent string, depth int)
	add = func(parent string, depth int) {
		for _, s := range spans {
			if s.Parent != parent {
				continue
			}
			if depth == 0 && !last.IsZero() {
				idle += s.Begin.Sub(last)
			}
			all = append(all, placed{s, depth, idle})
			add(s.ID, depth+1)
			last = s.End
		}
	}
	add(clientsSpan, 0)
	return all
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// tree writes spans as lines of text.
func tree(spans []collector.Span) string {
	var text strings.Builder
	all := below(spans)
	for _, s := range all {
		fmt.Fprintf(&text, "%-60s %-17s %8.1f ms + %7.1f ms\n", strings.Repeat("  ", s.depth)+s.Name, s.Service,
			milliseconds(s.Begin.Sub(all[0].Begin)), milliseconds(s.End.Sub(s.Begin)))
	}
	return text.String()
}

// picture draws spans as bars over time, a color for each process. The time between requests is left out.
func picture(spans []collector.Span) string {
	const row, left, width = 18, 390, 640
	all := below(spans)
	begin, length := all[0].Begin, time.Duration(0)
	for _, s := range all {
		length = max(length, s.End.Sub(begin)-s.idle)
	}
	x := func(s placed, at time.Time) float64 {
		return left + width*(at.Sub(begin)-s.idle).Seconds()/length.Seconds()
	}
	var text strings.Builder
	fmt.Fprintf(&text, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" `+
		`font-size="11">`+"\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", left+width+90, row*(len(all)+1))
	colors, known := []string{"#3b76c4", "#d08a2e", "#6db0e8", "#e8bd6d"}, []string{}
	for i, s := range all {
		if !slices.Contains(known, s.Process) {
			known = append(known, s.Process)
		}
		who := slices.Index(known, s.Process)
		name := strings.ReplaceAll(s.Name, "cloud.google.com/go/", "")
		fmt.Fprintf(&text, `<text x="%d" y="%d">%s</text><text x="%d" y="%d" fill="#777">%s %d</text>`+
			`<rect x="%.1f" y="%d" width="%.1f" height="12" fill="%s"/><text x="%.1f" y="%d" fill="#555">%.1f ms</text>`+"\n",
			8+s.depth*10, row*(i+1), name, left-82, row*(i+1), strings.TrimPrefix(s.Service, "claudepool-"), who+1,
			x(s, s.Begin), row*(i+1)-10, max(1, x(s, s.End)-x(s, s.Begin)), colors[who%len(colors)], x(s, s.End)+4, row*(i+1),
			milliseconds(s.End.Sub(s.Begin)))
	}
	return text.String() + "</svg>\n"
}
