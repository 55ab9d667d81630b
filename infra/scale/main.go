// Scale simulates many users, instances and fronts against a real redis-server, with the real Router, Lease and
// scripts: what a request costs Redis, how users spread, and how fast those of lost instances are placed again. No
// process is started for a user and no HTTP is spoken; the figures are of the ownership alone.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/router"
)

// sizes are what a simulation is about.
type sizes struct {
	users, instances, fronts int
	capacity                 int // of an instance
	workers                  int // requests at a time
	lost, deployed           float64
	batch                    int // instances replaced at a time
	steady                   time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := realMain(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func realMain(ctx context.Context, args []string) error {
	var n sizes
	set := flag.NewFlagSet("scale", flag.ContinueOnError)
	set.IntVar(&n.users, "users", 1_000_000, "users")
	set.IntVar(&n.instances, "instances", 1000, "instances")
	set.IntVar(&n.fronts, "fronts", 50, "fronts")
	set.IntVar(&n.capacity, "capacity", 0, "processes of an instance; 0: a quarter above the mean need")
	set.IntVar(&n.workers, "workers", 1000, "requests at a time")
	set.Float64Var(&n.lost, "lost", 0.1, "share of the instances that vanish at once")
	set.Float64Var(&n.deployed, "deployed", 1, "share of the instances that the rolling deploy replaces")
	set.IntVar(&n.batch, "batch", 20, "instances that the rolling deploy replaces at a time")
	set.DurationVar(&n.steady, "steady", time.Minute, "how long the cost of life signs is watched")
	report := set.String("report", "", "Markdown file in which results replace what is after `"+testkit.ReportMark+"`")
	if err := set.Parse(args); err != nil {
		return err
	}
	if n.capacity == 0 {
		n.capacity = n.users*5/(n.instances*4) + 1
	}
	folder, err := os.MkdirTemp("", "scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	url, stop, err := startRedis(ctx, folder)
	if err != nil {
		return err
	}
	defer stop()
	result, err := simulate(ctx, url, n)
	if err != nil {
		return err
	}
	text := result.markdown("go run ./infra/scale "+strings.Join(args, " "), n)
	fmt.Print(text)
	if *report == "" {
		return nil
	}
	return testkit.WriteReport(*report, text)
}

// redisAnswersIn is how long the server may take to come up.
const redisAnswersIn = 10 * time.Second

// startRedis starts an empty server on a free port of the loopback, which places users at once.
func startRedis(ctx context.Context, folder string) (url string, stop func(), err error) {
	addr, err := freeport.Addr()
	if err != nil {
		return "", nil, err
	}
	server, err := testkit.StartRedis(folder, addr)
	if err != nil {
		return "", nil, err
	}
	url = "redis://" + addr
	client, err := router.NewClient(url, "")
	if err != nil {
		server.Kill()
		return "", nil, err
	}
	defer func() { _ = client.Close() }()
	err = server.Await(ctx, "redis-server", redisAnswersIn, func() (bool, error) {
		return true, router.EndSettling(ctx, client)
	})
	if err != nil {
		server.Kill()
		return "", nil, err
	}
	return url, server.Kill, nil
}
