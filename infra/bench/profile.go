package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// share is a part of the service's CPU time.
type share struct {
	Function, Does string
	Percent        float64
}

// profiled runs the streams once more under the profiler and returns what its top functions are.
func (l *lab) profiled(ctx context.Context, c *crowd) ([]share, error) {
	type answer struct {
		profile []byte
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		profile, err := c.service.Get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", l.plan.profileSeconds))
		answers <- answer{profile, err}
	}()
	for until := time.Now().Add(time.Duration(l.plan.profileSeconds) * time.Second); time.Now().Before(until); {
		if _, err := c.run(ctx, l.plan.streamEvents); err != nil {
			return nil, err
		}
	}
	got := <-answers
	if got.err != nil {
		return nil, got.err
	}
	path := filepath.Join(l.scratch, "cpu.pprof")
	if err := os.WriteFile(path, got.profile, 0o600); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=100000", "-nodefraction=0", l.local,
		path).Output()
	return shares(out), err
}

// spots are the functions whose share of the CPU time is told, and what they do.
var spots = []struct{ function, does string }{
	{"claudepool/pool/cli.(*Process).read", "the pool reads the CLIs' lines; of that:"},
	{"claudepool/pool/claude.(*Reader).Next", "— reading from pipes, and splitting"},
	{"claudepool/pool/claude.ParseLine", "— what kind of line it is"},
	{"claudepool/pool/cli.(*turn).take", "— whose line it is, and waking its request"},
	{"claudepool/pool/server.(*stream).lines", "the pool writes events to the hop"},
	{"claudepool/function.(*Front).stream", "the front copies events from the hop to the client"},
	{"internal/runtime/syscall/linux.Syscall6", "system calls, of all the above"},
	{"runtime.mallocgc", "allocation, of all the above"},
	{"runtime.gcBgMarkWorker", "garbage collection"},
	{"runtime.schedule", "switching between goroutines"},
}

// shares are the spots' shares of the time, with those of the functions they call.
func shares(top []byte) []share {
	var all []share
	for _, spot := range spots {
		line := regexp.MustCompile(`(?m)([\d.]+)%\s+` + regexp.QuoteMeta(spot.function) + `(?: \(inline\))?$`)
		if found := line.FindSubmatch(top); found != nil {
			percent, _ := strconv.ParseFloat(string(found[1]), 64)
			all = append(all, share{spot.function, spot.does, percent})
		}
	}
	return all
}
