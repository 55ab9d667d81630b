package main

import (
	"context"
	"time"
)

// warmUp has what a new service does once done: its connections, and the growth of its heap.
func (c *comparison) warmUp(ctx context.Context, both servicePair) error {
	return takeTurns(ctx, 0, c.sizes.requests, events(1), both[base].newUser(), both[now].newUser(),
		func(sample, sample) {})
}

// talk is one of short requests on each side. It is short as well, since a CLI sends all of it to the API each time.
func (c *comparison) talk(ctx context.Context, n int, both servicePair) error {
	var users [2]*user
	for i, s := range both {
		users[i] = s.newUser()
		if _, err := users[i].ask(ctx, events(1)); err != nil { // which starts its process
			return err
		}
	}
	earlier, err := both.threads()
	if err != nil {
		return err
	}
	err = takeTurns(ctx, n, c.sizes.requests, events(1), users[base], users[now], func(was, is sample) {
		c.shorts.add(n, [2]sample{was, is})
	})
	if err != nil {
		return err
	}
	later, err := both.threads()
	if err != nil {
		return err
	}
	var used pair
	for i := range used {
		used[i] = float64(later[i].since(earlier[i])) / float64(c.sizes.requests)
	}
	c.requestCPU.add(n, used)
	return abba(n, 1, func(_, side int) (float64, error) {
		return users[side].requestAllocs(ctx, c.sizes.requests)
	}, func(got [2]float64) { c.requestAllocs.add(n, got) })
}

func (o servicePair) threads() (both [2]threads, err error) {
	for i, s := range o {
		if both[i], err = threadsOf(s.cmd.Process.Pid); err != nil {
			return both, err
		}
	}
	return both, nil
}

// saving is how long a service is left alone after a run of many streams, in which it saves what was said. What is
// still to be saved would be counted as the next run's.
const saving = 300 * time.Millisecond

// cost is what a run of many streams took.
type cost struct{ took, cpu time.Duration }

// crowds lets many streams run at once, on one side after the other. Their first run, in which connections and the heap
// grow, isn't counted. Runs are short, so that what else the machine does hits both sides of a pair.
func (c *comparison) crowds(ctx context.Context, n int, both servicePair) error {
	var crowds [2]*crowd
	for i, s := range both {
		crowds[i] = &crowd{service: s}
		for range c.sizes.streams {
			if err := crowds[i].join(ctx); err != nil {
				return err
			}
		}
		if _, err := c.crowdRun(ctx, crowds[i]); err != nil {
			return err
		}
	}
	return abba(n, c.sizes.runs, func(_, side int) (cost, error) {
		return c.crowdRun(ctx, crowds[side])
	}, func(got [2]cost) {
		all := float64(c.sizes.streams * c.sizes.events)
		c.eventTime.add(n, pair{float64(got[base].took) / all, float64(got[now].took) / all})
		c.eventCPU.add(n, pair{float64(got[base].cpu) / all, float64(got[now].cpu) / all})
	})
}

func (c *comparison) crowdRun(ctx context.Context, all *crowd) (cost, error) {
	pid := all.service.cmd.Process.Pid
	earlier, err := threadsOf(pid)
	if err != nil {
		return cost{}, err
	}
	took, err := all.run(ctx, c.sizes.events)
	if err != nil {
		return cost{}, err
	}
	later, err := threadsOf(pid)
	time.Sleep(saving)
	return cost{took, later.since(earlier)}, err
}
