package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

func TestBench_WritesAReportAndAPicture(t *testing.T) {
	out := t.TempDir()
	require.NoError(t, realMain(t.Context(), options{quick: true, out: out}, t.Logf))
	text, err := os.ReadFile(filepath.Join(out, "BENCH.md"))
	require.NoError(t, err)
	require.Contains(t, string(text), "the numbers mean nothing")
	require.NotContains(t, string(text), "NaN")
	require.NotContains(t, string(text), "<no value>")
	require.Regexp(t, `\| pooled, standby \| \d+\.\d ms \| \d+\.\d ms \| \d+\.\d\d s \| \d+\.\d\d× \|`, string(text))
	require.Regexp(t, `\| events/s in all \| [1-9]\d* \| [1-9]\d* \|`, string(text))
	require.Regexp(t, `\| 1 \| 1 \| [1-9]\d* \| \d+ \|`, string(text), "the burst found a standby")
	picture, err := os.ReadFile(filepath.Join(out, "infra/bench/first-token.svg"))
	require.NoError(t, err)
	require.Contains(t, string(picture), "</svg>")
}

func TestLoad_WritesAReport(t *testing.T) {
	out := t.TempDir()
	require.NoError(t, realMain(t.Context(), options{quick: true, load: true, out: out}, t.Logf))
	text, err := os.ReadFile(filepath.Join(out, "infra/bench/LOAD.md"))
	require.NoError(t, err)
	require.Contains(t, string(text), "the numbers mean nothing")
	require.Regexp(t, `\| 4 processes held \| 4 \| [1-9][\d.]* \| [1-9][\d.]* \| [1-9]\d* \| [1-9]\d* \|`, string(text))
	require.Regexp(t, `\| reused \| [1-9]\d* \|`, string(text))
}

func TestTranslation_PrintsTheRatiosOfTheEndpoints(t *testing.T) {
	var table strings.Builder
	require.NoError(t, realMain(t.Context(), options{quick: true, api: true, stdout: &table}, t.Logf))
	t.Log("\n" + table.String())
	for row, pairs := range map[string]string{
		"short request, first token": "4 +2", "short request, total": "4 +2", "events/s of 2 streams": "2 +2",
	} {
		require.Regexp(t, fmt.Sprintf(`(?m)^%s +[1-9].* +[1-9].* +\d+\.\d{3} +\d+\.\d{3} to [\d.+Inf]+ +%s$`, row, pairs),
			table.String())
	}
}

func TestChannels_PrintsWhatReadersCost(t *testing.T) {
	var table strings.Builder
	require.NoError(t, realMain(t.Context(), options{quick: true, reads: true, stdout: &table}, t.Logf))
	t.Log("\n" + table.String())
	require.Regexp(t, `(?m)^5 +[1-9][\d.]* MiB +[1-9][\d.]* MiB +[1-9]\d* +[1-9]\d* +\d`, table.String())
	require.Regexp(t, `(?m)^events/s of 2 streams +[1-9]\d* +[1-9]\d* +\d+\.\d{3} .* 2$`, table.String())
	require.Contains(t, table.String(), "\n100.0 % of the channels' events")
}

// needClone is for what takes a commit out of the repository.
func needClone(t *testing.T) {
	t.Helper()
	need.Part(t, "", exec.Command("git", "rev-parse", "HEAD").Run())
}

func TestTelemetry_IsComparedWithNoneAtEachRatio(t *testing.T) {
	var table strings.Builder
	require.NoError(t, realMain(t.Context(), options{quick: true, traced: true, stdout: &table}, t.Logf))
	for _, ratio := range sampled {
		for _, figure := range []string{"first token", "total", "CPU time of the service", "allocations"} {
			require.Regexp(t, "(?m)^"+regexp.QuoteMeta(ratio)+" +"+figure+" .* 2$", table.String())
		}
	}
	require.ErrorContains(t, realMain(t.Context(), options{traced: true, api: true}, t.Logf), "exclude")
}

func TestCompare_PrintsTheRatiosToACommit(t *testing.T) {
	needClone(t)
	folder := t.TempDir()
	var table strings.Builder
	require.NoError(t, realMain(t.Context(), options{quick: true, base: "HEAD", out: folder, stdout: &table}, t.Logf))
	t.Log("\n" + table.String())
	require.Contains(t, table.String(), "the numbers mean nothing")
	require.Contains(t, table.String(), "new users who found no standby: 0 and 0 of 1\n")
	for row, pairs := range map[string]string{
		"new user, first token": "1 +1", "new user, total": "1 +1",
		"new user with a session_id, first token": "1 +1", "new user with a history of 3 messages, first token": "1 +1",
		"new user with a history of 60 messages, first token": "1 +1", "user whose process has ended, first token": "1 +1",
		"later request, first token": "2 +1", "later request, total": "2 +1",
		"short request, first token": "4 +2", "short request, total": "4 +2",
		"short request, CPU time of the service": "2 +2", "short request, allocations": "2 +2",
		"event of many streams, time": "2 +2", "event of many streams, CPU time of the service": "2 +2",
	} {
		// Of so few requests the allocations can come out below nothing, as what else is going on is taken off.
		line := fmt.Sprintf(`(?m)^%s +-?[1-9].* +-?[1-9].* +(\d+\.\d{3}|NaN) +(\d+\.\d{3}|NaN) to [\d.+InfNa]+ +%s +\w`,
			row, pairs)
		require.Regexp(t, line, table.String())
	}
	written, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, written)
}

func TestCompare_RefusesWhatIsNoCommit(t *testing.T) {
	needClone(t)
	for _, name := range []string{"no-such-commit", "--all", "0123456789abcdef0123456789abcdef01234567"} {
		err := realMain(t.Context(), options{quick: true, base: name, stdout: io.Discard}, t.Logf)
		require.ErrorContains(t, err, fmt.Sprintf("no commit %q in this clone", name))
	}
	require.ErrorContains(t, realMain(t.Context(), options{load: true, base: "HEAD"}, t.Logf), "exclude each other")
}

func TestCompare_SidesTakeTurns(t *testing.T) {
	var order []string
	require.NoError(t, abba(0, 4, func(_, side int) (int, error) {
		order = append(order, "AB"[side:side+1])
		return side, nil
	}, func(got [2]int) { require.Equal(t, [2]int{base, now}, got) }))
	require.Equal(t, "ABBAABBA", strings.Join(order, ""))
}

func TestCompare_CPUTimeIsThatOfAllThreads(t *testing.T) {
	earlier, err := threadsOf(os.Getpid())
	require.NoError(t, err)
	began := ownCPU()
	for ownCPU()-began < 50*time.Millisecond {
	}
	later, err := threadsOf(os.Getpid())
	require.NoError(t, err)
	require.InDelta(t, 0.05, later.since(earlier).Seconds(), 0.03)
	begunAndEnded := threads{1: 3 * time.Second, 3: 2 * time.Second}.since(threads{1: 2 * time.Second, 2: time.Hour})
	require.Equal(t, 3*time.Second, begunAndEnded)
}

func TestStatistics_MedianAndQuantile(t *testing.T) {
	require.Equal(t, time.Duration(0), median[time.Duration](nil))
	require.Equal(t, 2*time.Second, median([]time.Duration{3 * time.Second, time.Second, 2 * time.Second}))
	require.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
	require.Equal(t, 9, quantile([]int{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, 0.9))
	require.Equal(t, 1, quantile([]int{1}, 1))
}
