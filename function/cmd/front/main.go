// Command front is a stateless front. Its settings are in the environment; see infra/settings.
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

	"claudepool/function/frontd"
	"claudepool/infra/logging"
	"claudepool/infra/settings"
	"claudepool/infra/snapshot"
	"claudepool/infra/telemetry"
	"claudepool/router"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // the log's reader may go, and this goes on
	if err := realMain(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "front:", logging.Redact(err.Error()))
		os.Exit(1)
	}
}

func realMain(ctx context.Context) error {
	s, err := settings.LoadFront(os.Environ())
	if err != nil {
		return err
	}
	log := logging.New(os.Stdout, s.LogLevel, s.LogFormat, s.FirestoreProject)
	slog.SetDefault(log) // libraries that log by themselves are redacted too
	measured, err := telemetry.Start(ctx, telemetry.Options{Logger: log, Service: "claudepool-front",
		MetricsAddr: s.MetricsAddr, TracesPerSecond: s.TracesPerSecond})
	if err != nil {
		return err
	}
	defer measured.Shutdown()
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
	if s.FirestoreProject == "" {
		log.Warn("FIRESTORE_PROJECT is not set: the stats will list no instance")
	}
	front, err := frontd.Start(s, frontd.Parts{Logger: log, Redis: redis, Store: store, Telemetry: measured})
	if err != nil {
		return err
	}
	defer front.Close()
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(s.Port)) // #nosec G102 -- a container serves on all its addresses
	if err != nil {
		return err
	}
	return serve(ctx, log, front, newServer(log), listener)
}
