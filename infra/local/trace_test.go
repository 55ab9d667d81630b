package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/client"
	"claudepool/infra/testkit/collector"
	"claudepool/infra/testkit/need"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

// clientsTrace is the trace that a client is in; it says that it is sampled.
const clientsTrace, clientsSpan = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

// traced is a deployment that sends its traces and metrics to a receiver in the test.
type traced struct {
	*deployment
	collector *collector.Collector
}

func prepareTraced(t *testing.T, cli string, env ...string) *traced {
	t.Helper()
	c, err := collector.New()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	d := prepare(t, cli)
	d.env = append(d.env, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL(), "OTEL_BSP_SCHEDULE_DELAY=50",
		"OTEL_METRIC_EXPORT_INTERVAL=200")
	d.env = append(d.env, env...)
	return &traced{d, c}
}

// within has a turn as part of a client's trace.
func (d *traced) within(trace string, front int, user, text string) got {
	d.t.Helper()
	request := client.Turn(credentials(user)["access_token"], text)
	r, err := d.client(front).Request(d.t.Context(), api.PathMessages, request)
	require.NoError(d.t, err)
	r.Header.Set("traceparent", "00-"+trace+"-"+clientsSpan+"-01")
	response, err := d.http.Do(r)
	require.NoError(d.t, err)
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return got{status: response.StatusCode, instance: response.Header.Get(api.HeaderInstance), body: string(body)}
}

func TestTrace_OfAClientGoesThroughBothFrontsAndBothInstancesToTheAPI(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.RealCLI()
	d := prepareTraced(t, need.Part(t, cli, err))
	d.bin = programs(t)
	first := d.instance()
	d.front()
	d.front()
	d.placeable(1)
	d.awaitSpares(1)
	requireAnswer(t, d.within(clientsTrace, 0, "ada", "a secret question"), "a secret question")
	second := d.instance()
	d.placeable(2)
	d.awaitSpares(2)
	d.awaitKept("ada", "a secret question")
	d.instances[first].Signal(syscall.SIGTERM)
	g := d.within(clientsTrace, 1, "ada", "another one")
	requireAnswer(t, g, "another one")
	require.Equal(t, second, g.instance)

	spans := d.awaitSpans(clientsTrace, func(spans []collector.Span) bool {
		return count(spans, "turn") == 2 && count(spans, "POST /v1/messages/pooled") >= 4
	})
	t.Log("\n" + tree(spans))
	if path := os.Getenv("TRACE_PICTURE"); path != "" {
		require.NoError(t, os.WriteFile(path, []byte(picture(spans)), 0o600))
	}
	require.Len(t, processes(spans, "claudepool-front"), 2)
	require.Len(t, processes(spans, "claudepool-pool"), 2)
	requireParents(t, spans)
	for _, name := range []string{"route", "hop", "chat", "acquire", "claim standby", "turn", "first token"} {
		require.NotZero(t, count(spans, name), name)
	}
	requireCallsWithinTurns(t, spans)
	d.requireQueued(1)
	d.requireNothingSecret()
	for _, call := range d.api.Calls() {
		require.Empty(t, call.Header.Get("Traceparent"), "the API isn't told of the trace")
	}
	require.Eventually(t, func() bool {
		return d.collector.HasMetric("http.server.request.duration") &&
			d.collector.HasMetric("gen_ai.server.time_to_first_token") && d.collector.HasMetric("claudepool.processes")
	}, patience, 20*time.Millisecond)
}

// awaitSpares waits until each of n instances has processes ready.
func (d *traced) awaitSpares(n int) {
	d.t.Helper()
	eventuallyStats(d.t, d.client(0), func(s api.Stats) bool {
		ready := 0
		for _, i := range s.Instances {
			if i.Standby > 0 && (i.Parked > 0 || !i.Protections["uid"]) {
				ready++
			}
		}
		return ready == n
	})
}

// requireQueued: of two requests of one conversation at once, the trace tells which has waited.
func (d *traced) requireQueued(front int) {
	d.t.Helper()
	const trace = "1af7651916cd43dd8448eb211c80319c"
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { d.within(trace, front, "ada", "two [[words=3]][[delay=1s]]") })
	}
	both.Wait()
	spans := d.awaitSpans(trace, func(spans []collector.Span) bool { return count(spans, "turn") == 2 })
	require.Equal(d.t, 1, count(spans, "queue"), tree(spans))
}

// awaitSpans waits until what has come of a trace is enough, with every parent of what is there.
func (d *traced) awaitSpans(trace string, enough func([]collector.Span) bool) (spans []collector.Span) {
	d.t.Helper()
	require.Eventually(d.t, func() bool {
		spans = d.collector.Spans(trace)
		return enough(spans) && len(orphans(spans)) == 0
	}, patience, 50*time.Millisecond)
	return spans
}

func requireParents(t *testing.T, spans []collector.Span) {
	t.Helper()
	require.Empty(t, orphans(spans))
	for _, s := range spans {
		if s.Parent == clientsSpan {
			require.Equal(t, "claudepool-front", s.Service, "only what clients ask begins without a span of ours")
		}
	}
}

// orphans are the spans whose parent is neither there nor the client's.
func orphans(spans []collector.Span) (names []string) {
	known := map[string]bool{clientsSpan: true}
	for _, s := range spans {
		known[s.ID] = true
	}
	for _, s := range spans {
		if !known[s.Parent] {
			names = append(names, s.Name)
		}
	}
	return names
}

// requireCallsWithinTurns: each call of the API is part of a turn, and says what it is.
func requireCallsWithinTurns(t *testing.T, spans []collector.Span) {
	t.Helper()
	calls := 0
	for _, turn := range spans {
		if turn.Name != "turn" {
			continue
		}
		for _, s := range spans {
			if s.Parent == turn.ID && s.Name == "chat" {
				calls++
				require.Equal(t, "chat", s.Texts["gen_ai.operation.name"])
				require.True(t, strings.HasPrefix(s.Texts["gen_ai.request.model"], "claude-haiku"), s.Texts)
			}
		}
	}
	require.Equal(t, 2, calls)
}

// requireNothingSecret: no text of any span has a token, a key, what somebody said, or more of a user's id than others
// may know.
func (d *traced) requireNothingSecret() {
	d.t.Helper()
	req := api.Request{OAuth: &api.OAuthCredentials{AccessToken: credentials("ada")["access_token"]}}
	for _, s := range d.collector.Spans("") {
		text := strings.ToLower(s.Name + fmt.Sprint(s.Texts))
		for _, secret := range []string{"sk-ant", "question", "another one", strings.Repeat("k", 32), "cp-",
			req.UserID()[:9]} {
			require.NotContains(d.t, text, secret)
		}
	}
}

func count(spans []collector.Span, name string) (n int) {
	for _, s := range spans {
		if s.Name == name {
			n++
		}
	}
	return n
}

// processes are those of a service that had a part in spans.
func processes(spans []collector.Span, service string) map[string]bool {
	all := make(map[string]bool)
	for _, s := range spans {
		if s.Service == service {
			all[s.Process] = true
		}
	}
	return all
}

func TestTrace_AFloodOfSampledClientsStaysWithinTheBound(t *testing.T) {
	t.Parallel()
	const perSecond, requests = 5, 300
	d := prepareTraced(t, "/bin/true", fmt.Sprint("TRACES_PER_SECOND=", perSecond))
	d.bin = programs(t)
	d.front()
	began := time.Now()
	for i := range requests {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.fronts[0]+"/", nil)
		require.NoError(t, err)
		r.Header.Set("traceparent", fmt.Sprintf("00-%032x-%016x-01", i+1, i+1))
		response, err := d.http.Do(r)
		require.NoError(t, err)
		response.Body.Close()
	}
	most := perSecond + int(time.Since(began).Seconds()*perSecond) + 1
	require.Less(t, most, requests/2, "else it was no flood")
	require.NoError(t, d.frontProcesses[0].Terminate(patience)) // which sends what there is
	require.NotEmpty(t, d.collector.Spans(""))
	require.LessOrEqual(t, len(d.collector.Spans("")), most)
}
