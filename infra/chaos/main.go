// Command chaos runs the service as processes, lets users talk to it, and makes things go wrong: processes are killed
// and frozen, lines cut, Redis is emptied and failed over, CLIs misbehave. Meanwhile it checks what the service
// promises.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"claudepool/infra/testkit"
)

// options are those of a run.
type options struct {
	duration  time.Duration
	seed      int64
	within    time.Duration // of the last fault's end everybody has to be served again
	turnTime  time.Duration // after which instances end a turn
	users     int
	talkers   int // of a user; every fifth has two
	real      bool
	firestore bool
	disk      bool
	only      string
	overlay   string
}

var errViolated = errors.New("what must not happen has happened")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := realMain(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func realMain(ctx context.Context, args []string) error {
	o := options{talkers: 1, within: recovery, turnTime: 10 * time.Second}
	set := flag.NewFlagSet("chaos", flag.ContinueOnError)
	set.DurationVar(&o.duration, "duration", 20*time.Minute,
		"how long to begin new faults; each that there is comes once, then pairs")
	set.Int64Var(&o.seed, "seed", 1, "decides the order of faults, what they hit and what users say")
	set.IntVar(&o.users, "users", 18, "users, every fifth with two conversations at a time")
	set.BoolVar(&o.real, "real", true, "run the real CLI on one of the instances")
	set.BoolVar(&o.firestore, "firestore", true, "run the Firestore emulator")
	set.BoolVar(&o.disk, "disk", os.Geteuid() == 0,
		"give one instance a small disk to fill, which takes the right to mount")
	set.StringVar(&o.only, "only", "", "only faults and pairs whose name contains this")
	set.StringVar(&o.overlay, "overlay", "",
		"JSON file of sources to build the service from in place of its own; see go help build")
	report := set.String("report", "", "Markdown file in which results replace what is after `"+testkit.ReportMark+"`")
	if err := set.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "claudepool-chaos-")
	if err != nil {
		return err
	}
	result, err := play(ctx, dir, o, plan(o))
	if err != nil {
		return fmt.Errorf("%w; logs are in %s", err, dir)
	}
	text := result.markdown("go run ./infra/chaos " + strings.Join(args, " "))
	fmt.Print(text)
	if *report != "" {
		if err := testkit.WriteReport(*report, text); err != nil {
			return err
		}
	}
	if result.bad() > 0 {
		return fmt.Errorf("%w; logs are in %s", errViolated, dir)
	}
	return os.RemoveAll(dir)
}
