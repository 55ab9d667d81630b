package confine

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// children starts n children of three processes each that stay.
func children(b *bench, n int) []*Child {
	var all []*Child
	for i := range n {
		w := b.workspace(fmt.Sprint(i))
		all = append(all, b.start(script(w, `sleep 1000 & setsid sh -c 'echo $$ >> $0; exec sleep 1000' $1 & exec cat`)))
		pids(b.t, w, 1)
	}
	return all
}

func BenchmarkScan(b *testing.B) {
	children(newBench(b), 20)
	all, err := scan(nil)
	require.NoError(b, err)
	for b.Loop() {
		_, _ = scan(nil)
	}
	b.ReportMetric(float64(len(all)), "processes")
}

func BenchmarkUsage(b *testing.B) {
	c := children(newBench(b), 20)[0]
	for b.Loop() {
		_, _ = c.Usage()
	}
}

func BenchmarkUsageOf(b *testing.B) {
	all := children(newBench(b), 20)
	for b.Loop() {
		_, _ = UsageOf(all...)
	}
}

func BenchmarkStartAndStop(b *testing.B) {
	bench := newBench(b)
	w := bench.workspace("w")
	for b.Loop() {
		c := bench.start(Spec{Path: "/bin/cat", Workspace: w})
		require.NoError(b, c.Stop(b.Context(), Ladder{CloseGrace: patience}))
		c.Stdout.Close()
	}
}

func BenchmarkStartAndStopConfined(b *testing.B) {
	bench := newConfined(b)
	w := bench.newWorkspace()
	for b.Loop() {
		c := bench.start(Spec{Path: "/bin/cat", Workspace: w})
		require.NoError(b, c.Stop(b.Context(), Ladder{CloseGrace: patience}))
		c.Stdout.Close()
	}
}

func BenchmarkProbe(b *testing.B) {
	bench := newConfined(b)
	for b.Loop() {
		_, err := bench.Probe(b.Context(), "/bin/cat")
		require.NoError(b, err)
	}
}

// BenchmarkMemory compares ways to tell a process' memory, on the process of the environment's BENCH_PID.
func BenchmarkMemory(b *testing.B) {
	pid := os.Getpid()
	if text := os.Getenv("BENCH_PID"); text != "" {
		_, err := fmt.Sscan(text, &pid)
		require.NoError(b, err)
	}
	for _, file := range []string{"statm", "status", "smaps_rollup"} {
		b.Run(file, func(b *testing.B) {
			buf := make([]byte, 4<<10)
			for b.Loop() {
				_, err := readProc(pid, file, buf)
				require.NoError(b, err)
			}
		})
	}
}
