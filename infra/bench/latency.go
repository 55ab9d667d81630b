package main

import (
	"context"
	"fmt"
	"time"
)

// The ways a request can reach a CLI, in the order in which they take turns.
const (
	spawned = iota
	pooled
	standby
	piped
	ways
)

var wayNames = [ways]string{"spawn per request", "pooled, no standby", "pooled, standby", "CLI over its pipes"}

// rest is the pause after a request, in which a CLI finishes what it does after a turn.
const rest = 100 * time.Millisecond

// latencies are the times to first tokens and the totals of one kind of request.
type latencies struct{ First, Total []time.Duration }

func (l *latencies) add(s sample) {
	l.First = append(l.First, s.first)
	l.Total = append(l.Total, s.total)
}

// requests are first and later requests of users, by way.
type requests struct {
	model        time.Duration // latency of the model
	first, later [ways]latencies
}

// prompt asks for an answer of two words after the model's latency.
func prompt(n int, model time.Duration) string {
	if model == 0 {
		return fmt.Sprintf("request %d", n)
	}
	return fmt.Sprintf("request %d [[latency=%s]]", n, model)
}

// services are one service for each of the pooled ways.
type services [ways]*service

func (l *lab) startServices(ctx context.Context, bin string) (services, error) {
	var s services
	var err error
	for way, n := range map[int]int{pooled: 0, standby: l.plan.Standby} {
		if s[way], err = l.startService(ctx, bin, n); err != nil {
			s.stop()
			return s, err
		}
	}
	return s, nil
}

func (s services) stop() {
	for _, one := range s {
		if one != nil {
			one.stop()
		}
	}
}

// settled is how long a standby has waited for its user at least, as most have.
const settled = 500 * time.Millisecond

// begin makes a new user's conversation by the given way, when no standby is being started that would disturb it.
func (l *lab) begin(ctx context.Context, s services, way int) (conversation, error) {
	if err := s[standby].awaitStandbys(ctx, l.plan.Standby); err != nil {
		return nil, err
	}
	time.Sleep(settled)
	switch way {
	case spawned:
		return l.newSpawning()
	case piped:
		return &direct{lab: l}, nil
	}
	return s[way].newUser(), nil
}

// newUsers measures rounds new users of each way, taking turns, each with n requests.
func (l *lab) newUsers(ctx context.Context, s services, model time.Duration, rounds, n int, only ...int) (requests,
	error) {
	all := requests{model: model}
	for round := range rounds {
		for i := range only {
			way := only[(i+round)%len(only)]
			if err := l.newUser(ctx, s, &all, way, n); err != nil {
				return all, fmt.Errorf("%s: %w", wayNames[way], err)
			}
		}
		l.say("model %s, %d requests each: user %d of %d", model, n, round+1, rounds)
	}
	return all, nil
}

func (l *lab) newUser(ctx context.Context, s services, all *requests, way, n int) error {
	c, err := l.begin(ctx, s, way)
	if err != nil {
		return err
	}
	defer c.close()
	for i := range n {
		got, err := c.ask(ctx, prompt(i+1, all.model))
		if err != nil {
			return err
		}
		if i == 0 {
			all.first[way].add(got)
		} else {
			all.later[way].add(got)
		}
		time.Sleep(rest)
	}
	return nil
}

// alternate measures later requests of one user of the pool and one of the CLI over its pipes, taking turns.
func (l *lab) alternate(ctx context.Context, s services, model time.Duration, n int) (requests, error) {
	all := requests{model: model}
	var cs [ways]conversation
	for _, way := range []int{standby, piped} {
		c, err := l.begin(ctx, s, way)
		if err != nil {
			return all, err
		}
		defer c.close()
		if _, err := c.ask(ctx, prompt(0, 0)); err != nil {
			return all, err
		}
		cs[way] = c
	}
	order := []int{standby, piped}
	for i := range n {
		for j := range order {
			way := order[(i+j)%2]
			got, err := cs[way].ask(ctx, prompt(i+1, model))
			if err != nil {
				return all, fmt.Errorf("%s: %w", wayNames[way], err)
			}
			all.later[way].add(got)
			time.Sleep(rest)
		}
	}
	l.say("model %s: %d later requests each", model, n)
	return all, nil
}
