// Scaler looks once at how full the pool's instances are, as their leases in Redis tell, and sets the instance count of
// their Cloud Run worker pool accordingly. Whatever runs it every minute makes it a control loop; without it the count
// stays what it is. It doesn't choose which instance ends: the platform does, and that one drains as at any other end.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/api/run/v2"

	"claudepool/infra/logging"
	"claudepool/infra/settings"
	"claudepool/router"
)

const passTimeout = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := realMain(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scaler:", logging.Redact(err.Error()))
		os.Exit(1)
	}
}

func realMain(ctx context.Context) error {
	s, err := settings.LoadScaler(os.Environ())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	redis, err := router.NewClient(s.RedisURL.Reveal(), s.RedisCA)
	if err != nil {
		return err
	}
	defer redis.Close()
	api, err := run.NewService(ctx)
	if err != nil {
		return err
	}
	one := scaler{log: logging.New(os.Stdout, s.LogLevel, s.LogFormat, ""), redis: redis, api: api, pool: s.WorkerPool,
		limits: limits{min: s.Min, max: s.Max, target: s.Target, calm: s.Calm}, dryRun: s.DryRun}
	return one.pass(ctx)
}
