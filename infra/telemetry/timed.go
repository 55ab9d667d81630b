package telemetry

import (
	"net/http"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
)

// timed returns the handler with each request timed.
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
		set := sets.Of(answered{methodOf(r), routeOf(r), of.code()})
		duration.Inst().Record(r.Context(), time.Since(began).Seconds(), set.Record...)
	})
}
