package main

import (
	"context"
	"fmt"
	"time"

	"claudepool/infra/testkit"
)

// comparison is what the two sides took for the same, in pairs. Both run at once, and take turns in the order A B B A.
// Each round has new services: which of them is the luckier with its memory and its cores is chance, and has to
// average out.
type comparison struct {
	*lab
	sizes  sizes
	sides  [2]side
	missed [2]int // new users who found no standby

	news, laters, shorts                           timed
	begun                                          [len(beginnings)]timed
	requestCPU, requestAllocs, eventTime, eventCPU figure
}

// sizes are how much is compared.
type sizes struct {
	newRounds, newUsers, standby int // pairs of new users in each round
	laters                       int // pairs of later requests of each pair of users
	beginnings                   int // pairs of new users with each of the beginnings in a round
	rounds                       int // with the scripted CLI, of:
	talks, requests              int // pairs of talks, and of requests in each
	streams, events, runs        int // at once, of each, and pairs of runs
	resamples                    int // more than so many don't change the second decimal place
}

var (
	fullSizes = sizes{newRounds: 18, newUsers: 4, standby: 2, laters: 14, beginnings: 1,
		rounds: 12, talks: 12, requests: 25, streams: 50, events: 1000, runs: 8, resamples: 4000}
	quickSizes = sizes{newRounds: 1, newUsers: 1, standby: 1, laters: 2, beginnings: 1,
		rounds: 2, talks: 1, requests: 2, streams: 2, events: 100, runs: 1, resamples: 100}
)

// compare measures both sides and prints their ratios.
func (l *lab) compare(ctx context.Context, o options) error {
	c := &comparison{lab: l, sizes: fullSizes}
	if o.quick {
		c.sizes = quickSizes
	}
	began, loadBefore := time.Now(), testkit.LoadAverages()
	var err error
	if c.sides, err = l.openSides(ctx, o); err != nil {
		return err
	}
	for n := range c.sizes.newRounds {
		if err := c.round(ctx, n, c.withCLI, c.sizes.standby, c.newUsers); err != nil {
			return fmt.Errorf("new users: %w", err)
		}
		l.say("new users: round %d of %d", n+1, c.sizes.newRounds)
	}
	for n := range c.sizes.rounds {
		if err := c.round(ctx, n, c.withScripted, 0, c.scriptedRound); err != nil {
			return fmt.Errorf("scripted CLI: %w", err)
		}
		l.say("scripted CLI: round %d of %d", n+1, c.sizes.rounds)
	}
	return c.write(o.stdout, c.head(o.quick, time.Since(began), loadBefore, testkit.LoadAverages()))
}

func (c *comparison) withCLI(s side) string      { return s.cli }
func (c *comparison) withScripted(s side) string { return s.scripted }

// servicePair are the two sides' services.
type servicePair [2]*service

// round starts the services, in turn the other one first, and measures with them.
func (c *comparison) round(ctx context.Context, n int, cli func(side) string, standby int,
	measure func(ctx context.Context, n int, both servicePair) error) error {
	var both servicePair
	for j := range both {
		i := (n + j) % 2
		settings := append([]string{"IDLE_TIMEOUT=1h",
			fmt.Sprint("PARKED=", min(standby, 1)), // a start in advance isn't to be counted as the requests'
			fmt.Sprint("UID_BASE=", 2_000_000_000+10_000*i)}, c.sides[i].settings...)
		s, err := c.serve(ctx, c.sides[i].local, cli(c.sides[i]), standby, settings...)
		if err != nil {
			return fmt.Errorf("%s (%s): %w", c.sides[i].name, c.sides[i].commit, err)
		}
		defer s.stop()
		both[i] = s
	}
	return measure(ctx, n, both)
}

// abba has two sides take n turns each, in the order A B B A, so that what drifts meanwhile hits both alike. Who is
// first in one round has to be second in the next: a turn after one of the other side's is not the same as a turn
// before it.
func abba[T any](first, n int, turn func(i, side int) (T, error), each func([2]T)) error {
	for i := range n {
		var got [2]T
		for j := range got {
			side := (first + i + j) % 2
			var err error
			if got[side], err = turn(i, side); err != nil {
				return err
			}
		}
		each(got)
	}
	return nil
}

// newUsers has new users come when a standby is ready for each. When all have been there, they come back.
func (c *comparison) newUsers(ctx context.Context, n int, both servicePair) error {
	var users [2][]*user
	err := abba(n, c.sizes.newUsers, func(_, side int) (sample, error) {
		if err := c.ready(ctx, both); err != nil {
			return sample{}, err
		}
		u := both[side].newUser()
		users[side] = append(users[side], u)
		got, err := u.ask(ctx, prompt(1, 0))
		if got.process != "standby" {
			c.missed[side]++
		}
		return got, err
	}, func(got [2]sample) { c.news.add(n, got) })
	if err != nil {
		return err
	}
	if err := c.ready(ctx, both); err != nil {
		return err
	}
	for i := range c.sizes.newUsers {
		if err := c.laterRequests(ctx, n, users[base][i], users[now][i]); err != nil {
			return err
		}
	}
	return c.newConversations(ctx, n, both)
}

// laterRequests has two users go on, in turn. Each request is a sample of its own, as the scatter of a request is
// larger than that of processes; what requests of a process share, the interval allows for, as it is one over rounds.
func (c *comparison) laterRequests(ctx context.Context, n int, was, is *user) error {
	users := [2]*user{base: was, now: is}
	return abba(n, c.sizes.laters, func(i, side int) (sample, error) {
		defer time.Sleep(rest) // what follows a turn is over before the other side has one
		return users[side].ask(ctx, prompt(2+i, 0))
	}, func(got [2]sample) { c.laters.add(n, got) })
}

// ready waits until both sides have their standbys again, as the start of one would disturb either side.
func (c *comparison) ready(ctx context.Context, both servicePair) error {
	for _, s := range both {
		if err := s.awaitReplaced(ctx, c.sizes.standby); err != nil {
			return err
		}
	}
	time.Sleep(settled)
	return nil
}

// awaitReplaced waits for standbys that are there after the latest user has taken one: older stats don't know of it.
func (s *service) awaitReplaced(ctx context.Context, standbys int) error {
	return await(ctx, "standbys to be replaced", func() (bool, error) {
		stats, err := s.Stats(ctx)
		return stats.PoolSize >= s.users && len(stats.Instances) > 0 && stats.Instances[0].Standby >= standbys, err
	})
}

// scriptedRound measures all that needs no real CLI.
func (c *comparison) scriptedRound(ctx context.Context, n int, both servicePair) error {
	if err := c.warmUp(ctx, both); err != nil {
		return err
	}
	for range c.sizes.talks {
		if err := c.talk(ctx, n, both); err != nil {
			return fmt.Errorf("short requests: %w", err)
		}
	}
	if err := c.crowds(ctx, n, both); err != nil {
		return fmt.Errorf("streams: %w", err)
	}
	return nil
}
