package telemetry

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
)

// timed returns the handler with each request timed. otelhttp could, but makes a set of attributes for each.
func (t *Telemetry) timed(next http.Handler) http.Handler {
	duration, err := httpconv.NewServerRequestDuration(t.Meter())
	if err != nil {
		otel.Handle(err)
		return next
	}
	sets := NewSets(answered.attributes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, of := time.Now(), &answer{ResponseWriter: w}
		next.ServeHTTP(of, r)
		set := sets.Of(answered{methodOf(r), routeOf(r), cmp.Or(of.status, http.StatusOK)})
		duration.Inst().Record(r.Context(), time.Since(began).Seconds(), set.Record...)
	})
}

// answer notes its status.
type answer struct {
	http.ResponseWriter
	status int // 0: it was written without one
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader is of http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if status >= http.StatusOK { // below are those before the answer
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// answered is what requests are timed by.
type answered struct {
	method, route string
	status        int
}

func (a answered) attributes() []attribute.KeyValue {
	of := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(a.method),
		semconv.HTTPResponseStatusCode(a.status)}
	if a.route != "" {
		of = append(of, semconv.HTTPRoute(a.route))
	}
	return of
}

// methodOf is the request's method, if it is one of those that there are: clients may make up others.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodConnect, http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPatch,
		http.MethodPost, http.MethodPut, http.MethodTrace:
		return r.Method
	}
	return semconv.HTTPRequestMethodOther.Value.AsString()
}

// routeOf is the path of the pattern that has matched; empty: none has.
func routeOf(r *http.Request) string {
	if i := strings.IndexByte(r.Pattern, '/'); i >= 0 {
		return r.Pattern[i:]
	}
	return ""
}
