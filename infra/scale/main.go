// Scale simulates many users, instances and fronts against a real redis-server, with the real Router, Lease and scripts:
// what a request costs Redis, how users spread, and how fast those of lost instances are placed again. No process is
// started for a user and no HTTP is spoken; the figures are of the ownership alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"claudepool/infra/freeport"
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
	report := set.String("report", "", "Markdown file whose text after the line `"+marker+"` is replaced by the results")
	if err := set.Parse(args); err != nil {
		return err
	}
	if n.capacity == 0 {
		n.capacity = n.users*5/(n.instances*4) + 1
	}
	url, stop, err := startRedis()
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
	return writeReport(*report, text)
}

// startRedis starts an empty server on a free port of the loopback.
func startRedis() (url string, stop func(), err error) {
	port, err := freeport.Port()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "scale")
	if err != nil {
		return "", nil, err
	}
	server := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir)
	server.Env = []string{"PATH=" + os.Getenv("PATH")}
	if err := server.Start(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
		_ = os.RemoveAll(dir)
	}
	url = fmt.Sprintf("redis://127.0.0.1:%s", port)
	client, err := router.NewClient(url, "")
	if err != nil {
		stop()
		return "", nil, err
	}
	defer func() { _ = client.Close() }()
	if err := answers(client); err != nil {
		stop()
		return "", nil, err
	}
	return url, stop, nil
}

// answers waits until the server does, and lets it place users at once.
func answers(client *redis.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for client.Ping(ctx).Err() != nil {
		if ctx.Err() != nil {
			return errors.New("redis-server doesn't answer")
		}
		time.Sleep(20 * time.Millisecond)
	}
	return router.Settle(ctx, client)
}
