package main

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/need"
	"claudepool/pool/pooltest"
)

// measured has the next program that is started serve its metrics, and returns where.
func (d *deployment) measured() (url string) {
	addr := freeAddr(d.t)
	d.env = append(d.env, "METRICS_ADDR="+addr)
	return "http://" + addr + "/metrics"
}

// families fetches metrics and lints them.
func families(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, string(text))
	problems, err := promlint.New(strings.NewReader(string(text))).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	require.NoError(t, err)
	return found
}

func TestMetrics_OfFrontAndInstancePassPrometheusLintAndStandInTheTable(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.RealCLI() // which tries again
	d := prepare(t, need.Part(t, cli, err))
	d.bin = programs(t)
	instance := d.measured()
	d.instance()
	front := d.measured()
	d.front()
	d.placeable(1)
	for _, text := range []string{"hello", "[[1:status=529]][[1:retry]]", "[[status=400]]"} {
		require.Equal(t, http.StatusOK, d.ask(0, "ada", text).status)
	}
	d.requireTurns(instance)
	rows := readTable(t)
	seen := make(map[string]bool)
	for of, url := range map[string]string{"instance": instance, "front": front} {
		for name, family := range families(t, url) {
			if name == "target_info" {
				continue
			}
			seen[name] = true
			requireRow(t, rows, of, name, family)
		}
	}
	for name, row := range rows {
		require.True(t, seen[name] || strings.Contains(row.of, "Firestore"), "nobody has %s", name)
	}
}

// requireTurns checks what an instance tells of one turn that went well, one after a second try, and one that the API
// refused.
func (d *deployment) requireTurns(url string) {
	d.t.Helper()
	got := families(d.t, url)
	outcomes := map[string]float64{}
	for _, m := range got["claudepool_turns_total"].Metric {
		for _, label := range m.Label {
			if label.GetName() == "outcome" {
				outcomes[label.GetValue()] += m.GetCounter().GetValue()
			}
		}
	}
	require.Equal(d.t, map[string]float64{"good": 2, "error": 1}, outcomes)
	require.EqualValues(d.t, 1, got["claudepool_api_retries_total"].Metric[0].GetCounter().GetValue())
	require.EqualValues(d.t, 1, sum(got["claudepool_processes"]))
	var first uint64
	for _, m := range got["gen_ai_server_time_to_first_token_seconds"].Metric {
		first += m.GetHistogram().GetSampleCount()
	}
	require.EqualValues(d.t, 2, first)
	tokens := map[string]float64{}
	for _, m := range got["claudepool_api_tokens_total"].Metric {
		require.Equal(d.t, "type", m.Label[1].GetName())
		tokens[m.Label[1].GetValue()] += m.GetCounter().GetValue()
	}
	require.Equal(d.t, map[string]float64{"input": 20, "output": 10}, tokens, "of the two that were answered")
	require.Positive(d.t, got["claudepool_api_cost_total"].Metric[0].GetCounter().GetValue())
}

func sum(family *dto.MetricFamily) (all float64) {
	for _, m := range family.Metric {
		all += m.GetGauge().GetValue()
	}
	return all
}

func TestMetrics_WhatAnInstanceHasCountedLastIsPushedAtItsEnd(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.ScriptedCLI()
	d := prepareTraced(t, need.Part(t, cli, err), "OTEL_METRIC_EXPORT_INTERVAL=3600000", "OTEL_TRACES_EXPORTER=none")
	d.bin = programs(t)
	id := d.instance()
	d.front()
	d.placeable(1)
	require.Equal(t, http.StatusOK, d.ask(0, "ada", "[[events=1]]").status)
	require.False(t, d.collector.HasMetric("claudepool.turns"))
	require.NoError(t, d.instances[id].Terminate(patience))
	for _, name := range []string{"claudepool.turns", "claudepool.processes", "claudepool.spares.missed"} {
		require.True(t, d.collector.HasMetric(name), name)
	}
}

// row is what the table in OPERATIONS says of a metric.
type row struct {
	labels []string
	series int
	of     string
}

var quoted = regexp.MustCompile("`([a-z_]+)`")

// readTable reads it.
func readTable(t *testing.T) map[string]row {
	t.Helper()
	text, err := os.ReadFile("../OPERATIONS.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "| metric | unit | labels | series | of |\n")
	require.True(t, found)
	_, table, _ = strings.Cut(table, "\n") // below the line of hyphens
	table, _, _ = strings.Cut(table, "\n\n")
	rows := make(map[string]row)
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(line, "|\n "), "|")
		require.Len(t, cells, 5, line)
		r := row{of: strings.TrimSpace(cells[4])}
		for _, name := range quoted.FindAllStringSubmatch(cells[2], -1) {
			r.labels = append(r.labels, name[1])
		}
		r.series, err = strconv.Atoi(strings.TrimSpace(cells[3]))
		require.NoError(t, err, line)
		rows[strings.Trim(cells[0], "` ")] = r
	}
	return rows
}

// requireRow checks a metric of a front or an instance against the table.
func requireRow(t *testing.T, rows map[string]row, of, name string, family *dto.MetricFamily) {
	t.Helper()
	require.Contains(t, rows, name)
	r := rows[name]
	require.Regexp(t, "^(both|"+of+")", r.of, name)
	require.LessOrEqual(t, len(family.Metric), r.series, name)
	for _, m := range family.Metric {
		for _, label := range m.Label {
			require.Contains(t, r.labels, label.GetName(), name)
		}
	}
}

var (
	asked     = regexp.MustCompile(`\b((?:claudepool|http|gen_ai|db|rpc)_[a-z_]+)(\{[^}]*\}|\[|\))`)
	grouped   = regexp.MustCompile(`by \(([a-z_, ]+)\)`)
	condition = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"`)
)

func TestDashboard_AsksForMetricsAndLabelsOfTheTableAlone(t *testing.T) {
	rows := readTable(t)
	text, err := os.ReadFile("../grafana/dashboard.json")
	require.NoError(t, err)
	require.True(t, gjson.ValidBytes(text))
	shown := make(map[string]bool)
	for _, expression := range gjson.GetBytes(text, "panels.#.targets.#.expr|@flatten").Array() {
		expr := expression.Str
		by := grouped.FindStringSubmatch(expr)
		metrics := asked.FindAllStringSubmatch(grouped.ReplaceAllString(expr, ""), -1)
		require.Len(t, metrics, 1, expr)
		name := metrics[0][1]
		require.Contains(t, rows, name, expr)
		shown[name] = true
		labels := condition.FindAllStringSubmatch(metrics[0][2], -1)
		if by != nil {
			labels = append(labels, by)
		}
		for _, label := range labels {
			require.Contains(t, append(rows[name].labels, "job"), label[1], expr)
		}
		isHistogram := strings.HasSuffix(name, "_duration_seconds") || strings.HasSuffix(name, "_token_seconds")
		require.Equal(t, isHistogram, strings.Contains(expr, "histogram_"), expr)
		require.Equal(t, isHistogram || strings.HasSuffix(name, "_total"), strings.Contains(expr, "rate("), expr)
	}
	require.Len(t, shown, len(rows), "a metric isn't shown")
}

var inTerraform = regexp.MustCompile(`\\"(claudepool\.[a-z_.]+)\\"([^}]*)\}`)

func TestAlerts_AskForCountersAndLabelsOfTheTableAlone(t *testing.T) {
	rows := readTable(t)
	text, err := os.ReadFile("../../terraform/telemetry.tf")
	require.NoError(t, err)
	found := inTerraform.FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, found)
	for _, m := range found {
		name := strings.ReplaceAll(m[1], ".", "_") + "_total" // as Prometheus calls it
		require.Contains(t, rows, name)
		for _, label := range condition.FindAllStringSubmatch(strings.ReplaceAll(m[2], `\`, ""), -1) {
			require.Contains(t, append(rows[name].labels, "namespace"), label[1], m[0])
		}
	}
}
