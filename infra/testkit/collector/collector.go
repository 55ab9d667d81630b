// Package collector is a receiver of OTLP over HTTP, for tests and benchmarks: it keeps the spans that it gets, and
// takes metrics for nothing but to have taken them.
package collector

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	metrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one that was received. Ids are in hex.
type Span struct {
	Service, Process string // the resource's service.name and service.instance.id
	Trace, ID        string
	Parent           string // empty: there is none
	Name             string
	Begin, End       time.Time
	Failed           bool
	Texts            map[string]string // its attributes, those of its events, and its status
}

// Collector is a receiver on a loopback port. Its methods may be called concurrently.
type Collector struct {
	server *http.Server
	url    string
	served chan struct{}

	mu      sync.Mutex // guards the following
	spans   []Span
	metrics map[string]bool // names
}

// New returns a serving Collector, which has to be closed.
func New() (*Collector, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &Collector{url: "http://" + listener.Addr().String(), served: make(chan struct{}), metrics: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", c.takeTraces)
	mux.HandleFunc("POST /v1/metrics", c.takeMetrics)
	c.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(c.served)
		_ = c.server.Serve(listener)
	}()
	return c, nil
}

// URL is what OTEL_EXPORTER_OTLP_ENDPOINT has to be.
func (c *Collector) URL() string { return c.url }

// Close ends the Collector.
func (c *Collector) Close() {
	_ = c.server.Close()
	<-c.served
}

// Spans returns those of a trace that have come so far, or with an empty id all of them.
func (c *Collector) Spans(ofTrace string) (found []Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if ofTrace == "" || s.Trace == ofTrace {
			found = append(found, s)
		}
	}
	return found
}

// Forget drops the spans that have come so far.
func (c *Collector) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = nil
}

// HasMetric reports whether a metric of that name has come.
func (c *Collector) HasMetric(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metrics[name]
}

func (c *Collector) takeTraces(w http.ResponseWriter, r *http.Request) {
	var request traces.ExportTraceServiceRequest
	if !take(w, r, &request, &traces.ExportTraceServiceResponse{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		of := texts(resource.GetResource().GetAttributes())
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, spanOf(s, of))
			}
		}
	}
}

func (c *Collector) takeMetrics(w http.ResponseWriter, r *http.Request) {
	var request metrics.ExportMetricsServiceRequest
	if !take(w, r, &request, &metrics.ExportMetricsServiceResponse{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				c.metrics[m.Name] = true
			}
		}
	}
}

// take reads a request and answers it. It reports whether it could.
func take(w http.ResponseWriter, r *http.Request, into, answer proto.Message) bool {
	from := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return false
		}
		from = unzipped
	}
	body, err := io.ReadAll(from)
	if err == nil {
		err = proto.Unmarshal(body, into)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	text, _ := proto.Marshal(answer) // of nothing that could fail
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(text)
	return true
}

func spanOf(s *trace.Span, of map[string]string) Span {
	span := Span{Service: of["service.name"], Process: of["service.instance.id"], Trace: hex.EncodeToString(s.TraceId),
		ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId), Name: s.Name,
		Begin: at(s.StartTimeUnixNano), End: at(s.EndTimeUnixNano),
		Failed: s.GetStatus().GetCode() == trace.Status_STATUS_CODE_ERROR, Texts: texts(s.Attributes)}
	for i, event := range s.Events {
		for name, value := range texts(event.Attributes) {
			span.Texts[fmt.Sprint(event.Name, " ", i, " ", name)] = value
		}
	}
	span.Texts["status"] = s.GetStatus().GetMessage()
	span.Texts["tracestate"] = s.TraceState
	return span
}

func at(nanoseconds uint64) time.Time { return time.Unix(0, int64(nanoseconds)) } // #nosec G115 -- of this century

func texts(attributes []*common.KeyValue) map[string]string {
	all := make(map[string]string, len(attributes))
	for _, a := range attributes {
		if s, ok := a.GetValue().GetValue().(*common.AnyValue_StringValue); ok {
			all[a.Key] = s.StringValue
		} else {
			all[a.Key] = a.GetValue().String()
		}
	}
	return all
}
