// Command poold is a pool instance. Its settings are in the environment; see infra/settings.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"claudepool/infra/archive"
	"claudepool/infra/instance"
	"claudepool/infra/logging"
	"claudepool/infra/settings"
	"claudepool/infra/snapshot"
	"claudepool/infra/telemetry"
	"claudepool/infra/usage"
	"claudepool/pool/confine"
	"claudepool/pool/poold"
	"claudepool/router"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // the log's reader may go, and this goes on
	if err := realMain(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "poold:", logging.Redact(err.Error()))
		os.Exit(1)
	}
}

func realMain(ctx context.Context) error {
	s, err := settings.LoadPool(os.Environ())
	if err != nil {
		return err
	}
	log := logging.New(os.Stdout, s.LogLevel, s.LogFormat, s.FirestoreProject)
	slog.SetDefault(log) // libraries that log by themselves are redacted too
	if err := confine.RaisePriority(); err != nil {
		log.Info("the service comes before no other process", "error", err)
	}
	measured, err := telemetry.Start(ctx, telemetry.Options{Logger: log, Service: "claudepool-pool",
		MetricsAddr: s.MetricsAddr, TracesPerSecond: s.TracesPerSecond})
	if err != nil {
		return err
	}
	defer measured.Shutdown()
	return run(ctx, s, log, measured)
}

// run brings the instance up and has it serve until ctx is done or it fails.
func run(ctx context.Context, s settings.Pool, log *slog.Logger, measured *telemetry.Telemetry) error {
	redis, err := router.NewClient(s.RedisURL.Reveal(), s.RedisCA)
	if err != nil {
		return err
	}
	defer redis.Close()
	if err := measured.Redis(redis); err != nil {
		return err
	}
	store, closeStore, err := snapshot.Open(ctx, s.FirestoreProject, s.FirestoreDatabase)
	if err != nil {
		return err
	}
	defer closeStore()
	kept, closeArchive, err := archive.Open(ctx, s.ArchiveDir, s.FirestoreProject, s.FirestoreDatabase, s.ArchiveTTL)
	if err != nil {
		return err
	}
	defer closeArchive()
	used, closeUsage, err := usage.Open(ctx, s.FirestoreProject, s.FirestoreDatabase)
	if err != nil {
		return err
	}
	defer closeUsage()
	addr, err := instance.Addr(ctx, s.AdvertiseAddr, s.Port)
	if err != nil {
		return err
	}
	if err := router.Await(ctx, redis, log); err != nil { // the port says that the instance can be reached by fronts
		return err
	}
	// #nosec G102 -- fronts reach an instance by its address on the network
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(s.Port))
	if err != nil {
		return err
	}
	if err := confine.DropUnused(s.Isolation != "off"); err != nil {
		return err
	}
	i, err := poold.Start(s, poold.Parts{Logger: log, Redis: redis, Store: store, Archive: kept, Usage: used,
		Listener: listener, Addr: addr, Telemetry: measured})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case err = <-i.Failed():
	}
	i.Shutdown()
	return err
}
