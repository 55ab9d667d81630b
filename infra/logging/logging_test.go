package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	parent  = "00-" + traceID + "-00f067aa0ba902b7-01"
)

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

// line logs through a new JSON logger and returns the one line it wrote.
func line(t *testing.T, log func(*slog.Logger)) map[string]any {
	t.Helper()
	var out bytes.Buffer
	log(New(&out, slog.LevelDebug, "json", "my-project"))
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	var fields map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &fields))
	return fields
}

func TestNew_WritesCloudLoggingsForm(t *testing.T) {
	ctx := WithRequest(t.Context(), "req_1", headers("traceparent", parent))
	got := line(t, func(l *slog.Logger) { l.WarnContext(ctx, "all gone", "error", errors.New("no")) })
	stamp, err := time.Parse(time.RFC3339Nano, got["time"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), stamp, time.Minute)
	delete(got, "time")
	require.Equal(t, map[string]any{
		"severity": "WARNING", "message": "all gone", "error": "no", "request_id": "req_1",
		"logging.googleapis.com/trace":         "projects/my-project/traces/" + traceID,
		"logging.googleapis.com/spanId":        "00f067aa0ba902b7",
		"logging.googleapis.com/trace_sampled": true,
	}, got)
}

func TestNew_SeverityFollowsTheLevel(t *testing.T) {
	for level, want := range map[slog.Level]string{
		slog.LevelDebug: "DEBUG", slog.LevelInfo: "INFO", slog.LevelInfo + 1: "INFO", slog.LevelWarn: "WARNING",
		slog.LevelError: "ERROR", slog.LevelError + 4: "ERROR",
	} {
		got := line(t, func(l *slog.Logger) { l.Log(t.Context(), level, "x") })
		require.Equal(t, want, got["severity"])
	}
}

func TestNew_LevelIsAFloor(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		New(&out, slog.LevelWarn, format, "").Info("quiet")
		require.Empty(t, out.String())
	}
}

func TestNew_WithoutProjectTheTraceIsBare(t *testing.T) {
	var out bytes.Buffer
	ctx := WithRequest(t.Context(), "req_1", headers("traceparent", parent))
	New(&out, slog.LevelInfo, "json", "").InfoContext(ctx, "x")
	require.Contains(t, out.String(), `"logging.googleapis.com/trace":"`+traceID+`"`)
}

func TestNew_WithoutARequestNothingIsAdded(t *testing.T) {
	got := line(t, func(l *slog.Logger) { l.InfoContext(t.Context(), "x", "a", 1) })
	delete(got, "time")
	require.Equal(t, map[string]any{"severity": "INFO", "message": "x", "a": 1.0}, got)
}

func TestNew_TextHasTheRequestIDAndSlogsNames(t *testing.T) {
	var out bytes.Buffer
	ctx := WithRequest(t.Context(), "req_1", headers("traceparent", parent))
	New(&out, slog.LevelInfo, "text", "p").InfoContext(ctx, "hello", "user", "abc12345")
	require.Regexp(t, `^time=\S+ level=INFO msg=hello user=abc12345 request_id=req_1\n$`, out.String())
}

func TestHandler_RequestStaysAtTheTopOfALineWithGroups(t *testing.T) {
	ctx := WithRequest(t.Context(), "req_1", headers("traceparent", parent))
	got := line(t, func(l *slog.Logger) {
		l.With("a", 1).WithGroup("g").With("b", 2).InfoContext(ctx, "x", "message", "own", "level", "own")
	})
	require.Equal(t, "req_1", got["request_id"])
	require.Contains(t, got, "logging.googleapis.com/trace")
	require.Equal(t, 1.0, got["a"])
	require.Equal(t, map[string]any{"b": 2.0, "message": "own", "level": "own"}, got["g"])
}

func TestHandler_SiblingsDoNotShareSteps(t *testing.T) {
	ctx := WithRequest(t.Context(), "req_1", nil)
	var out bytes.Buffer
	base := New(&out, slog.LevelInfo, "json", "").With("a", 1).With("b", 2).WithGroup("g")
	one, two := base.With("n", "one"), base.With("n", "two")
	one.InfoContext(ctx, "x")
	two.InfoContext(ctx, "x")
	require.Equal(t, 1, strings.Count(out.String(), `"g":{"n":"one"}`))
	require.Equal(t, 1, strings.Count(out.String(), `"g":{"n":"two"}`))
}

func TestHandler_KeepsSlogsOwnRules(t *testing.T) {
	var out bytes.Buffer
	handler := New(&out, slog.LevelDebug, "json", "p").Handler()
	err := slogtest.TestHandler(handler, func() []map[string]any {
		var all []map[string]any
		for text := range strings.Lines(strings.NewReplacer(`"message":`, `"msg":`, `"severity":`,
			`"level":`).Replace(out.String())) {
			var fields map[string]any
			require.NoError(t, json.Unmarshal([]byte(text), &fields))
			all = append(all, fields)
		}
		return all
	})
	require.NoError(t, err)
}

func TestHandler_ConcurrentLinesStayWhole(t *testing.T) {
	var out bytes.Buffer
	logger := New(&out, slog.LevelInfo, "json", "p").WithGroup("g")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { logger.InfoContext(WithRequest(context.Background(), NewRequestID(), nil), "x", "a", 1) })
	}
	all.Wait()
	for text := range strings.Lines(out.String()) {
		require.True(t, json.Valid([]byte(text)), text)
	}
	require.Equal(t, 20, strings.Count(out.String(), "\n"))
}

func TestRequestID_AcceptsOnlyPlainOnes(t *testing.T) {
	for _, good := range []string{"a", "req_0123-ABC", strings.Repeat("x", 64)} {
		require.Equal(t, good, RequestID(headers("X-Request-Id", good)))
	}
	for _, odd := range []string{"", " ", "a b", "a\nb", "a\n", "ü", "a;b", "a/b", strings.Repeat("x", 65)} {
		got := RequestID(http.Header{"X-Request-Id": {odd}})
		require.Regexp(t, `^req_[0-9a-f]{24}$`, got, "%q", odd)
	}
	require.NotEqual(t, NewRequestID(), NewRequestID())
}

func TestTraceOf_ReadsBothHeaders(t *testing.T) {
	const span = "00f067aa0ba902b7"
	for name, test := range map[string]struct {
		header http.Header
		want   Trace
	}{
		"none":              {headers(), Trace{}},
		"sampled":           {headers("traceparent", parent), Trace{traceID, span, true}},
		"not sampled":       {headers("traceparent", "00-"+traceID+"-"+span+"-00"), Trace{traceID, span, false}},
		"other flags":       {headers("traceparent", "00-"+traceID+"-"+span+"-fe"), Trace{traceID, span, false}},
		"later version":     {headers("traceparent", "01-"+traceID+"-"+span+"-01-more"), Trace{traceID, span, true}},
		"version 00 longer": {headers("traceparent", parent+"-more"), Trace{}},
		"version ff":        {headers("traceparent", "ff"+parent[2:]), Trace{}},
		"upper case":        {headers("traceparent", strings.ToUpper(parent)), Trace{}},
		"zero trace":        {headers("traceparent", "00-"+strings.Repeat("0", 32)+"-"+span+"-01"), Trace{}},
		"zero span":         {headers("traceparent", "00-"+traceID+"-0000000000000000-01"), Trace{}},
		"line break":        {http.Header{"Traceparent": {parent + "\n"}}, Trace{}},
		"cloud":             {headers(headerCloudTrace, traceID+"/74;o=1"), Trace{traceID, "000000000000004a", true}},
		"cloud, upper case": {headers(headerCloudTrace, strings.ToUpper(traceID)+"/74"),
			Trace{traceID, "000000000000004a", false}},
		"cloud, largest": {headers(headerCloudTrace, traceID+"/18446744073709551615;o=0"),
			Trace{traceID, "ffffffffffffffff", false}},
		"cloud, too large":  {headers(headerCloudTrace, traceID+"/18446744073709551616;o=1"), Trace{traceID, "", true}},
		"cloud, trace only": {headers(headerCloudTrace, traceID), Trace{traceID, "", false}},
		"cloud, garbage":    {headers(headerCloudTrace, "../../x;o=1"), Trace{}},
		"cloud, zero":       {headers(headerCloudTrace, strings.Repeat("0", 32)+"/1;o=1"), Trace{}},
		"both: standard one": {headers("traceparent", parent, headerCloudTrace, strings.Repeat("b", 32)+"/1;o=0"),
			Trace{traceID, span, true}},
		"standard one odd": {headers("traceparent", "x", headerCloudTrace, traceID+"/74;o=1"),
			Trace{traceID, "000000000000004a", true}},
	} {
		require.Equal(t, test.want, TraceOf(test.header), name)
	}
}

func TestWithRequest_KnowsTheTraceThatTheRequestIsPartOfHere(t *testing.T) {
	here := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2},
		TraceFlags: trace.FlagsSampled})
	theirs := http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}}
	var out bytes.Buffer
	ctx := WithRequest(trace.ContextWithSpanContext(t.Context(), here), "req_1", theirs)
	New(&out, slog.LevelInfo, "json", "p").InfoContext(ctx, "x")
	require.Contains(t, out.String(), `"logging.googleapis.com/trace":"projects/p/traces/`+here.TraceID().String()+`"`)
	require.Contains(t, out.String(), `"logging.googleapis.com/trace_sampled":true`)
}

func TestUnsampled_LeavesATracesIdAndNotWhatAClientWishes(t *testing.T) {
	const id = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	for value, want := range map[string]string{id + "01": id + "00", id + "00": id + "00", id + "ff": id + "00",
		"cc" + id[2:] + "01-more": "cc" + id[2:] + "00", "odd": "odd"} {
		require.Equal(t, want, Unsampled("Traceparent", value))
	}
	require.Equal(t, id+"01", Unsampled("X-Cloud-Trace-Context", id+"01"))
}
