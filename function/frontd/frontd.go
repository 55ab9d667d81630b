// Package frontd puts one front together: routing, hops, stats and limits. It is all that function/cmd/front does but
// for the server, and what infra/local puts before its instances.
package frontd

import (
	"context"
	"log/slog"
	"net/http"

	"claudepool/function"
	"claudepool/infra/hop"
	"claudepool/infra/memory"
	"claudepool/infra/settings"
	"claudepool/infra/snapshot"
	"claudepool/infra/telemetry"
	"claudepool/infra/usage"
	"claudepool/router"
)

// Parts are what a front doesn't make itself.
type Parts struct {
	Logger *slog.Logger
	Redis  router.Redis
	Store  snapshot.Store
	// Telemetry is what is measured and traced goes to; nil is nowhere.
	Telemetry *telemetry.Telemetry
}

// Front is a front whose router runs.
type Front struct {
	*function.Front
	handler http.Handler // the front, measured
	stop    context.CancelFunc
	stopped chan struct{} // closed when the router has ended
}

// Start brings a front up, which has to be closed. Serving it is the caller's.
func Start(s settings.Front, parts Parts) (*Front, error) {
	keys, err := hop.ParseKeys(s.HopKeys.Reveal())
	if err != nil {
		return nil, err
	}
	apiKeys, err := function.ParseAPIKeys(s.APIKeys.Reveal())
	if err != nil {
		return nil, err
	}
	hops := function.NewClient()
	if parts.Telemetry != nil {
		hops.Measure(parts.Telemetry.Hops)
	}
	route := router.New(parts.Redis, router.Options{Logger: parts.Logger, Reach: hops.Reach})
	front := function.New(function.Options{
		Logger: parts.Logger, Router: route, Client: hops, View: snapshot.NewView(parts.Store, parts.Logger), Keys: keys,
		MaxBodyBytes: int64(s.MaxBodyBytes), Memory: memory.Limit(), StatsToken: s.StatsToken.Reveal(), APIKeys: apiKeys,
		Limits:         function.NewLimits(parts.Redis, s.RateLimitUser, s.RateLimitAddr),
		Usage:          usage.NewReader(parts.Redis),
		TrustedProxies: s.TrustedProxies, AllowedOrigins: s.AllowedOrigins,
	})
	ctx, stop := context.WithCancel(context.Background())
	f := &Front{Front: front, handler: parts.Telemetry.Public(front), stop: stop, stopped: make(chan struct{})}
	go func() {
		defer close(f.stopped)
		route.Run(ctx)
	}()
	return f, nil
}

// ServeHTTP answers one request.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.handler.ServeHTTP(w, r) }

// Close ends what runs in the background. Streams end by Drain, before that.
func (f *Front) Close() {
	f.stop()
	<-f.stopped
}
