// Command bench measures what the pool is for, on the machine it runs on, and writes BENCH.md: the time to the first
// token and to the end, with the real CLI on a stand-in for the Messages API, of a CLI per request, of the pool without
// and with standbys, and of a CLI over its own pipes; what idle processes cost; and what the service itself adds, with
// the scripted CLI. All that is compared takes turns within one run, so that what else the machine does hits all alike.
//
// With -base it compares the working tree with another commit instead, see comparison, with -density too how many users
// an instance serves, see crowding; with -messages it compares the endpoint POST /v1/messages with the pooled one, with
// -telemetry a service that sends traces and metrics with one that doesn't, and with -channels readers of channels with
// pooled requests.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"claudepool/pool/pooltest"
)

// plan is how much is measured.
type plan struct {
	Standby       int
	models        []time.Duration // latencies of the model
	NewUsers      int             // of each way, for first requests
	LaterRequests int
	Tens          int // users with ten requests each
	Starts        int // of each variant

	BurstStandby, BurstUsers, bursts int
	Settle                           time.Duration

	idleUsers int
	idleOver  time.Duration

	shortTalks, shortRequests         int // talks by each way, and requests of each
	longStreams, longEvents           int
	streams, streamEvents, streamRuns int
	profileSeconds                    int
}

var full = plan{
	Standby: 2, models: []time.Duration{0, 500 * time.Millisecond}, NewUsers: 20, LaterRequests: 50, Tens: 6, Starts: 10,
	BurstStandby: 4, BurstUsers: 20, bursts: 3, Settle: 6 * time.Second,
	idleUsers: 20, idleOver: time.Minute,
	shortTalks: 20, shortRequests: 25, longStreams: 9, longEvents: 20_000,
	streams: 200, streamEvents: 5_000, streamRuns: 3, profileSeconds: 10,
}

// quick tries that everything works. Its numbers mean nothing.
var quick = plan{
	Standby: 1, models: []time.Duration{0}, NewUsers: 1, LaterRequests: 2, Tens: 1, Starts: 1,
	BurstStandby: 1, BurstUsers: 10, bursts: 1,
	idleUsers: 4, idleOver: 100 * time.Millisecond,
	shortTalks: 1, shortRequests: 3, longStreams: 1, longEvents: 15_000, // whose result is a long line
	streams: 3, streamEvents: 100, streamRuns: 1, profileSeconds: 1,
}

// programs are what is built of one state of the code.
type programs struct {
	scripted string // the stand-in for the CLI
	local    string // the service
}

// lab is what the measurements work with.
type lab struct {
	plan      plan
	scratch   string // folder, removed at the end
	bin       string // the CLI
	programs         // of the working tree
	api       *pooltest.API
	redis     string // host:port of a redis-server; empty where there is none
	databases int    // used of it so far
	say       func(format string, args ...any)
}

// options are the command's flags.
type options struct {
	quick  bool
	load   bool
	api    bool
	traced bool
	reads  bool
	base   string
	dense  time.Duration // 0 is not at all
	out    string        // folder of the reports
	stdout io.Writer     // for the tables of comparisons
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := options{stdout: os.Stdout}
	flag.BoolVar(&o.quick, "quick", false, "try with the scripted CLI that everything works; the numbers mean nothing")
	flag.BoolVar(&o.load, "load", false, "put one instance under load instead, and write infra/bench/LOAD.md")
	flag.BoolVar(&o.api, "messages", false, "compare POST /v1/messages with the pooled endpoint instead")
	flag.BoolVar(&o.traced, "telemetry", false, "compare a service that sends traces and metrics with one that doesn't")
	flag.BoolVar(&o.reads, "channels", false, "measure idle readers of channels, and compare streaming ones with requests")
	flag.StringVar(&o.base, "base", "", "compare the working tree with this commit instead, and print the ratios")
	flag.DurationVar(&o.dense, "density", 0, "with -base: have more users than processes for so long, at each rate")
	flag.StringVar(&o.out, "out", ".", "folder to write BENCH.md and infra/bench/first-token.svg into")
	flag.Parse()
	say := func(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
	if err := realMain(ctx, o, say); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// check says what of the flags doesn't go together.
func (o options) check() error {
	modes := 0
	for _, asked := range []bool{o.load, o.api, o.traced, o.reads, o.base != ""} {
		if asked {
			modes++
		}
	}
	switch {
	case modes > 1:
		return errors.New("-load, -messages, -telemetry, -channels and -base exclude each other")
	case o.dense > 0 && o.base == "":
		return errors.New("-density needs -base")
	}
	return nil
}

func realMain(ctx context.Context, o options, say func(string, ...any)) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	scratch, err := openFolder("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	l := &lab{plan: full, scratch: scratch, say: say}
	if o.quick {
		l.plan = quick
	}
	if l.api, err = pooltest.NewAPI(nil); err != nil {
		return err
	}
	defer l.api.Close()
	stopRedis, err := l.startRedis()
	if err != nil {
		return err
	}
	defer stopRedis()
	if o.dense > 0 {
		return l.crowd(ctx, o)
	}
	if o.base != "" {
		return l.compare(ctx, o)
	}
	if err := l.build(o.quick || o.load || o.api || o.traced || o.reads); err != nil {
		return err
	}
	if o.api {
		return l.translated(ctx, o.quick, o.stdout)
	}
	if o.traced {
		return l.telemetry(ctx, o.quick, o.stdout)
	}
	if o.reads {
		return l.readChannels(ctx, o.quick, o.stdout)
	}
	if o.load {
		plan := fullLoad
		if o.quick {
			plan = quickLoad
		}
		return l.underLoad(ctx, plan, o.quick, o.out)
	}
	r := newReport(l, o.quick)
	if err := l.measure(ctx, r); err != nil {
		return err
	}
	r.end()
	return r.write(o.out)
}

// openFolder makes a folder that processes of other uids may pass through, as isolated ones have to.
func openFolder(parent, name string) (string, error) {
	folder, err := os.MkdirTemp(parent, name)
	if err != nil {
		return "", err
	}
	return folder, os.Chmod(folder, 0o711)
}

// build makes the programs, and finds the real CLI.
func (l *lab) build(isQuick bool) error {
	bin, err := pooltest.Build(pooltest.Local)
	if err != nil {
		return err
	}
	l.local = filepath.Join(bin, "local")
	if l.scripted, err = pooltest.ScriptedCLI(); err != nil {
		return err
	}
	if l.bin = l.scripted; !isQuick {
		l.bin, err = pooltest.RealCLI()
	}
	return err
}

// measure does it all, one after the other.
func (l *lab) measure(ctx context.Context, r *report) error {
	var err error
	for _, model := range l.plan.models {
		if err := l.requests(ctx, r, model); err != nil {
			return err
		}
	}
	if r.Bursts, err = l.bursts(ctx); err != nil {
		return fmt.Errorf("bursts: %w", err)
	}
	if r.Idle, err = l.idle(ctx); err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	if r.Starts, err = l.starts(ctx); err != nil {
		return fmt.Errorf("starts: %w", err)
	}
	if r.Added, err = l.added(ctx); err != nil {
		return fmt.Errorf("added: %w", err)
	}
	if r.Throughput, err = l.throughput(ctx); err != nil {
		return fmt.Errorf("throughput: %w", err)
	}
	return nil
}

// requests measures what one latency of the model is needed for.
func (l *lab) requests(ctx context.Context, r *report, model time.Duration) error {
	s, err := l.startServices(ctx, l.bin)
	if err != nil {
		return err
	}
	defer s.stop()
	few := 1
	if model > 0 {
		few = 2 // half as many: they take longer and scatter less
	}
	news, err := l.newUsers(ctx, s, model, l.plan.NewUsers/few, 3, pooled, standby, piped)
	later, laterErr := l.alternate(ctx, s, model, l.plan.LaterRequests/few)
	tens, tensErr := l.newUsers(ctx, s, model, l.plan.Tens/few, 10, spawned, pooled, standby, piped)
	r.New, r.Later, r.Tens = append(r.New, news), append(r.Later, later), append(r.Tens, tens)
	return errors.Join(err, laterErr, tensErr)
}
