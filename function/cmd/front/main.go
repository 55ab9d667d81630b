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

	"claudepool/function"
	"claudepool/infra/hop"
	"claudepool/infra/logging"
	"claudepool/infra/memory"
	"claudepool/infra/settings"
	"claudepool/infra/snapshot"
	"claudepool/router"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // who reads the log may go, and this goes on
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
	keys, err := hop.ParseKeys(s.HopKeys.Reveal())
	if err != nil {
		return err
	}
	apiKeys, err := function.ParseAPIKeys(s.APIKeys.Reveal())
	if err != nil {
		return err
	}
	redis, err := router.NewClient(s.RedisURL.Reveal(), s.RedisCA)
	if err != nil {
		return err
	}
	defer redis.Close()
	store, closeStore, err := snapshot.Open(ctx, s.FirestoreProject, s.FirestoreDatabase)
	if err != nil {
		return err
	}
	defer closeStore()
	if s.FirestoreProject == "" {
		log.Warn("FIRESTORE_PROJECT is not set: the stats will list no instance")
	}
	hops := function.NewClient()
	route := router.New(redis, router.Options{Logger: log, Reach: hops.Reach})
	front := function.New(function.Options{Logger: log, Router: route, Client: hops, View: snapshot.NewView(store, log), Keys: keys,
		MaxBodyBytes: int64(s.MaxBodyBytes), Memory: memory.Limit(), StatsToken: s.StatsToken.Reveal(), APIKeys: apiKeys,
		Limits: function.NewLimits(redis, s.RateLimitUser, s.RateLimitAddr), TrustedProxies: s.TrustedProxies})
	watch, stopWatch := context.WithCancel(context.Background())
	defer stopWatch()
	go route.Run(watch)
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(s.Port)) // #nosec G102 -- a container serves on all its addresses
	if err != nil {
		return err
	}
	return serve(ctx, log, front, newServer(log), listener)
}
