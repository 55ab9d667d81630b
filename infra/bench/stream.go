package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"sync"
	"time"

	"claudepool/infra/testkit/client"
)

// added is what front, hop and pool add to the scripted CLI.
type added struct {
	Bare           []time.Duration // HTTP exchanges between client and front, and nothing more
	Piped, Through latencies       // short requests
	PipedEvent     []time.Duration // of a long stream, by event
	ThroughEvent   []time.Duration
	RequestAllocs  float64 // allocations of the service, of one short request
}

// throughput is many streams at once.
type throughput struct {
	Streams, Events         int // of one run: all streams' events
	Piped, Through          []float64
	EventAllocs, EventBytes float64       // of the service, of one event
	Service, CLIs, Client   time.Duration // CPU time of one run through the service
	Profile                 []share
}

func events(n int) string { return fmt.Sprintf("[[events=%d]]", n) }

// added compares users of the service with CLIs over their pipes, taking turns.
func (l *lab) added(ctx context.Context) (added, error) {
	var a added
	s, err := l.startService(ctx, l.scripted, 0)
	if err != nil {
		return a, err
	}
	defer s.stop()
	for range l.plan.shortTalks {
		if err := l.short(ctx, s, &a); err != nil {
			return a, err
		}
	}
	l.say("scripted CLI: first token after %s over its pipes, after %s through the service", median(a.Piped.First),
		median(a.Through.First))
	return a, l.long(ctx, s, &a)
}

// short has a talk of short requests by both ways. It is short as well, since a CLI sends all of it to the API each
// time.
func (l *lab) short(ctx context.Context, s *service, a *added) error {
	c, u, err := l.pair(ctx, s)
	if err != nil {
		return err
	}
	defer c.close()
	err = takeTurns(ctx, 0, l.plan.shortRequests, events(1), c, u, func(piped, through sample) {
		a.Piped.add(piped)
		a.Through.add(through)
	})
	if err != nil {
		return err
	}
	for range l.plan.shortRequests {
		began := time.Now()
		if _, err := s.Get(ctx, "/health"); err != nil {
			return err
		}
		a.Bare = append(a.Bare, time.Since(began))
	}
	a.RequestAllocs, err = u.requestAllocs(ctx, l.plan.shortRequests)
	return err
}

// requestAllocs is how many objects the service allocates for a short request, on average over n of them, without those
// it tells their number with.
func (u *user) requestAllocs(ctx context.Context, n int) (float64, error) {
	s := u.service
	empty, _, err := s.allocations(ctx)
	if err != nil {
		return 0, err
	}
	before, _, err := s.allocations(ctx)
	if err != nil {
		return 0, err
	}
	for range n {
		if _, err := u.ask(ctx, events(1)); err != nil {
			return 0, err
		}
	}
	after, _, err := s.allocations(ctx)
	return (after - before - (before - empty)) / float64(n), err
}

// long compares streams of many events.
func (l *lab) long(ctx context.Context, s *service, a *added) error {
	c, u, err := l.pair(ctx, s)
	if err != nil {
		return err
	}
	defer c.close()
	return takeTurns(ctx, 0, l.plan.longStreams, events(l.plan.longEvents), c, u, func(piped, through sample) {
		a.PipedEvent = append(a.PipedEvent, piped.total/time.Duration(l.plan.longEvents))
		a.ThroughEvent = append(a.ThroughEvent, through.total/time.Duration(l.plan.longEvents))
	})
}

// pair is a CLI and a user, both of which have had a turn.
func (l *lab) pair(ctx context.Context, s *service) (*cli, *user, error) {
	u := s.newUser()
	if _, err := u.ask(ctx, events(1)); err != nil {
		return nil, nil, err
	}
	c, err := l.warmCLI(ctx, l.scripted, events(1))
	return c, u, err
}

// takeTurns asks both n times, each time the other one first.
func takeTurns(ctx context.Context, first, n int, text string, one, other conversation,
	each func(one, other sample)) error {
	both := [2]conversation{one, other}
	return abba(first, n, func(_, side int) (sample, error) { return both[side].ask(ctx, text) },
		func(got [2]sample) { each(got[0], got[1]) })
}

var (
	mallocsLine    = regexp.MustCompile(`(?m)^# Mallocs = (\d+)$`)
	totalAllocLine = regexp.MustCompile(`(?m)^# TotalAlloc = (\d+)$`)
)

// allocations is how many objects and bytes the service has allocated since it started.
func (s *service) allocations(ctx context.Context) (objects, bytes float64, err error) {
	text, err := s.Get(ctx, "/debug/pprof/allocs?debug=1")
	if err != nil {
		return 0, 0, err
	}
	number := func(line *regexp.Regexp) float64 {
		found := line.FindSubmatch(text)
		if found == nil {
			err = errors.New("no such number in the profile")
			return 0
		}
		n, _ := strconv.ParseFloat(string(found[1]), 64)
		return n
	}
	objects, bytes = number(mallocsLine), number(totalAllocLine)
	return objects, bytes, err
}

// crowd is as many conversations as there are streams, by both ways.
type crowd struct {
	service *service
	users   []*user
	pids    []int // of the users' processes
	clis    []*cli
}

func (c *crowd) close() {
	for _, one := range c.clis {
		one.close()
	}
	c.service.stop()
}

func (l *lab) gather(ctx context.Context) (*crowd, error) {
	s, err := l.startService(ctx, l.scripted, 0)
	if err != nil {
		return nil, err
	}
	c := &crowd{service: s}
	for range l.plan.streams {
		if err := c.join(ctx); err != nil {
			c.close()
			return nil, err
		}
		one, err := l.warmCLI(ctx, l.scripted, events(1))
		if err != nil {
			c.close()
			return nil, err
		}
		c.clis = append(c.clis, one)
	}
	return c, nil
}

// join adds a user, who has a first turn.
func (c *crowd) join(ctx context.Context) error {
	u := c.service.newUser()
	got, err := u.ask(ctx, events(1))
	c.users, c.pids = append(c.users, u), append(c.pids, got.pid)
	return err
}

// throughput lets all streams run at once, by both ways in turn.
func (l *lab) throughput(ctx context.Context) (throughput, error) {
	t := throughput{Streams: l.plan.streams, Events: l.plan.streams * l.plan.streamEvents}
	c, err := l.gather(ctx)
	if err != nil {
		return t, err
	}
	defer c.close()
	for range l.plan.streamRuns {
		piped, err := atOnce(l.plan.streams, func(i int) error {
			return c.clis[i].turn(ctx, events(l.plan.streamEvents), func([]byte) {})
		})
		if err != nil {
			return t, err
		}
		through, err := l.measured(ctx, c, &t)
		if err != nil {
			return t, err
		}
		t.Piped = append(t.Piped, float64(t.Events)/piped.Seconds())
		t.Through = append(t.Through, float64(t.Events)/through.Seconds())
		l.say("%d streams: %.0f events/s over pipes, %.0f through the service", t.Streams, t.Piped[len(t.Piped)-1],
			t.Through[len(t.Through)-1])
	}
	t.Profile, err = l.profiled(ctx, c)
	return t, err
}

// measured is a run through the service with its cost noted.
func (l *lab) measured(ctx context.Context, c *crowd, t *throughput) (time.Duration, error) {
	objects, size, err := c.service.allocations(ctx)
	if err != nil {
		return 0, err
	}
	service, clis, err := c.cpu()
	if err != nil {
		return 0, err
	}
	client := ownCPU()
	took, err := c.run(ctx, l.plan.streamEvents)
	if err != nil {
		return 0, err
	}
	t.Client = ownCPU() - client
	serviceAfter, clisAfter, err := c.cpu()
	if err != nil {
		return 0, err
	}
	t.Service, t.CLIs = serviceAfter-service, clisAfter-clis
	objectsAfter, sizeAfter, err := c.service.allocations(ctx)
	t.EventAllocs, t.EventBytes = (objectsAfter-objects)/float64(t.Events), (sizeAfter-size)/float64(t.Events)
	return took, err
}

func (c *crowd) run(ctx context.Context, n int) (time.Duration, error) {
	return atOnce(len(c.users), func(i int) error { return c.users[i].drain(ctx, events(n), n) })
}

// atOnce runs n of f side by side and tells how long all of them took.
func atOnce(n int, f func(i int) error) (time.Duration, error) {
	errs := make([]error, n)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}

// drain reads a stream of n events as cheaply as it can be checked.
func (u *user) drain(ctx context.Context, text string, n int) error {
	answer, err := u.service.Begin(ctx, client.Turn(u.token, text))
	if err != nil {
		return err
	}
	defer answer.Close()
	buffer := make([]byte, 64<<10)
	got := 0
	for {
		size, err := answer.Body.Read(buffer)
		got += bytes.Count(buffer[:size], []byte("\n\n")) // one that is cut in two isn't counted
		if errors.Is(err, io.EOF) && got >= n*9/10 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d events: %w", got, n, err)
		}
	}
}
