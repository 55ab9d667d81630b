package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"claudepool/function/frontd"
	"claudepool/infra/archive"
	"claudepool/infra/settings"
	"claudepool/infra/snapshot"
	"claudepool/infra/telemetry"
	"claudepool/infra/usage"
	"claudepool/pool/poold"
	"claudepool/pool/pooltest"
	"claudepool/router"
)

// service is everything, in one process.
type service struct {
	front     *frontd.Front
	instances []*poold.Instance
	closers   []func() // run in reverse
}

func (s *service) later(f func()) { s.closers = append(s.closers, f) }

// stop ends all instances side by side, then what they stood on.
func (s *service) stop() {
	var ending sync.WaitGroup
	for _, i := range s.instances {
		ending.Go(i.Shutdown)
	}
	ending.Wait()
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

func start(ctx context.Context, log *slog.Logger, s settings.Pool, fs settings.Front, f flags) (*service, error) {
	all := &service{}
	if err := all.start(ctx, log, s, fs, f); err != nil {
		all.stop()
		return nil, err
	}
	return all, nil
}

func (all *service) start(ctx context.Context, log *slog.Logger, s settings.Pool, fs settings.Front, f flags) error {
	if f.offline || f.demo {
		upstream, err := all.standIn()
		if err != nil {
			return err
		}
		s.AnthropicBaseURL = *upstream
	}
	measured, err := telemetry.Start(ctx, telemetry.Options{Logger: log, Service: "claudepool-local",
		MetricsAddr: s.MetricsAddr, TracesPerSecond: s.TracesPerSecond})
	if err != nil {
		return err
	}
	all.later(measured.Shutdown)
	client, err := all.redis(ctx, s)
	if err != nil {
		return err
	}
	if err := measured.Redis(client); err != nil {
		return err
	}
	store, closeStore, err := snapshot.Open(ctx, s.FirestoreProject, s.FirestoreDatabase)
	if err != nil {
		return err
	}
	all.later(func() { _ = closeStore() })
	kept, closeArchive, err := archive.Open(ctx, s.ArchiveDir, s.FirestoreProject, s.FirestoreDatabase, s.ArchiveTTL)
	if err != nil {
		return err
	}
	all.later(func() { _ = closeArchive() })
	used, closeUsage, err := usage.Open(ctx, s.FirestoreProject, s.FirestoreDatabase)
	if err != nil {
		return err
	}
	all.later(func() { _ = closeUsage() })
	for range f.instances {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		i, err := poold.Start(s, poold.Parts{Logger: log, Redis: client, Store: store, Archive: kept, Usage: used,
			Listener: listener, Addr: listener.Addr().String(), Telemetry: measured})
		if err != nil {
			return err
		}
		all.instances = append(all.instances, i)
	}
	if all.front, err = frontd.Start(fs, frontd.Parts{Logger: log, Redis: client, Store: store,
		Telemetry: measured}); err != nil {
		return err
	}
	all.later(all.front.Close)
	return nil
}

// standIn starts a stand-in for the API and returns where it is.
func (all *service) standIn() (*url.URL, error) {
	api, err := pooltest.NewAPI(offlineAnswer)
	if err != nil {
		return nil, err
	}
	all.later(api.Close)
	return url.Parse(api.URL())
}

// redis connects to the configured Redis, or embeds one whose clock is driven here.
func (all *service) redis(ctx context.Context, s settings.Pool) (*redis.Client, error) {
	address := s.RedisURL.Reveal()
	embedded := os.Getenv("REDIS_URL") == ""
	if embedded {
		server := miniredis.NewMiniRedis()
		if err := server.Start(); err != nil {
			return nil, err
		}
		all.later(server.Close)
		all.later(drive(server))
		address = "redis://" + server.Addr()
	}
	client, err := router.NewClient(address, s.RedisCA)
	if err != nil {
		return nil, err
	}
	all.later(func() { _ = client.Close() })
	if embedded {
		// Nobody can hold anything in a Redis that was born with this process.
		return client, router.EndSettling(ctx, client)
	}
	return client, nil
}

// drive has the clock of an embedded Redis go on until stopped.
func drive(server *miniredis.Miniredis) (stop func()) {
	tick, ended := time.NewTicker(time.Second), make(chan struct{})
	go func() {
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				server.FastForward(time.Second)
			}
		}
	}()
	return func() { close(ended) }
}

// offlineAnswer is what the stand-in for the API says to a plain text.
func offlineAnswer(text string) string {
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return fmt.Sprintf("This is the offline stand-in for the Messages API. You said: %s", text)
}
