package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBench_WritesAReportAndAPicture(t *testing.T) {
	out := t.TempDir()
	require.NoError(t, realMain(t.Context(), true, false, out, t.Logf))
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
	require.NoError(t, realMain(t.Context(), true, true, out, t.Logf))
	text, err := os.ReadFile(filepath.Join(out, "infra/bench/LOAD.md"))
	require.NoError(t, err)
	require.Contains(t, string(text), "the numbers mean nothing")
	require.Regexp(t, `\| 4 processes held \| 4 \| [1-9][\d.]* \| [1-9][\d.]* \| [1-9]\d* \| [1-9]\d* \|`, string(text))
	require.Regexp(t, `\| reused \| [1-9]\d* \|`, string(text))
}

func TestStatistics_MedianAndQuantile(t *testing.T) {
	require.Equal(t, time.Duration(0), median[time.Duration](nil))
	require.Equal(t, 2*time.Second, median([]time.Duration{3 * time.Second, time.Second, 2 * time.Second}))
	require.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
	require.Equal(t, 9, quantile([]int{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, 0.9))
	require.Equal(t, 1, quantile([]int{1}, 1))
}
