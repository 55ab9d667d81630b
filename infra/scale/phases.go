package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"claudepool/infra/testkit"
	"claudepool/router"
)

const (
	// leaseOver is a lease and a little.
	leaseOver = router.LeaseTime + time.Second
	// placeableIn is how long all instances may take until fronts place users on them.
	placeableIn = 10 * time.Minute
)

func simulate(ctx context.Context, url string, n sizes) (*results, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := newSimulation(ctx, url, n)
	if err != nil {
		return nil, err
	}
	r := &results{began: time.Now(), load: testkit.LoadAverages()}
	instances, err := s.begin(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, phase := range []func(context.Context, *results, []*instance) ([]*instance, error){
		s.place, s.repeat, s.stand, s.lose, s.deploy,
	} {
		if instances, err = phase(ctx, r, instances); err != nil {
			return nil, err
		}
	}
	r.loadAfter = testkit.LoadAverages()
	return r, s.check(instances)
}

// begin starts the fronts and instances and waits until all can take users.
func (s *simulation) begin(ctx context.Context, r *results) ([]*instance, error) {
	for range s.sizes.fronts {
		client, err := s.client(16)
		if err != nil {
			return nil, err
		}
		s.fronts = append(s.fronts, router.New(client, router.Options{Logger: slog.New(slog.DiscardHandler), Reach: reach}))
	}
	go s.fronts[0].Run(ctx) // one dials them first, so that this program doesn't dial each from each at once
	var instances []*instance
	err := s.measure(ctx, r, "instances start", s.instances, func() (int64, error) {
		var err error
		instances, err = s.startInstances(ctx, s.instances)
		return 0, err
	})
	if err != nil {
		return nil, err
	}
	for _, front := range s.fronts[1:] {
		go front.Run(ctx)
	}
	return instances, nil
}

func (s *simulation) startInstances(ctx context.Context, n int) (started []*instance, err error) {
	for range n {
		i, err := s.startInstance(ctx)
		if err != nil {
			return nil, err
		}
		started = append(started, i)
	}
	for _, i := range started {
		err := testkit.Await(ctx, "a place in Redis", placeableIn, func() (bool, error) {
			return true, s.admin.ZScore(ctx, testkit.Candidates, i.ID()).Err()
		})
		if err != nil {
			return nil, err
		}
	}
	return started, nil
}

func (s *simulation) place(ctx context.Context, r *results, instances []*instance) ([]*instance, error) {
	before := s.info(ctx)
	err := s.measure(ctx, r, "new users", s.users, func() (int64, error) { return s.all(ctx, s.everybody(), s.frontOf) })
	after := s.info(ctx)
	r.bytesPerUser = (after["used_memory"] - before["used_memory"]) / float64(s.users)
	r.inScripts = after.commandsSince(before, s.users)
	r.balance = append(r.balance, named{"after all were placed", balance(instances)})
	return instances, err
}

// repeat has everybody come again, by the same front, then some by another one.
func (s *simulation) repeat(ctx context.Context, r *results, instances []*instance) ([]*instance, error) {
	before := s.requested.Load()
	err := s.measure(ctx, r, "warm requests, the same front", s.users, func() (int64,
		error) {
		return s.all(ctx, s.everybody(), s.frontOf)
	})
	r.warm = s.requested.Load() - before
	if err != nil {
		return nil, err
	}
	some := s.everybody()[:s.users/10]
	return instances, s.measure(ctx, r, "warm requests, another front", len(some),
		func() (int64, error) { return s.all(ctx, some, s.anotherFor) })
}

// stand watches what it costs that nothing happens.
func (s *simulation) stand(ctx context.Context, r *results, instances []*instance) ([]*instance, error) {
	return instances, s.measure(ctx, r, "nobody asks", 0, func() (int64, error) {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(s.steady):
			return 0, nil
		}
	})
}

// lose has instances vanish, and all their users ask again: at first their leases live, then they are over.
func (s *simulation) lose(ctx context.Context, r *results, instances []*instance) ([]*instance, error) {
	n := int(s.lost * float64(len(instances)))
	var vanishing sync.WaitGroup
	for _, i := range instances[:n] {
		vanishing.Go(i.vanish)
	}
	vanishing.Wait()
	vanished := time.Now()
	var users []int
	for u := range s.homes {
		if s.homes[u].Load().dead.Load() {
			users = append(users, u)
		}
	}
	// A request before the lease is over is refused. Each once, as slowly as clients that were told to wait do.
	asked := context.WithValue(ctx, requestKey{}, true)
	err := s.measure(ctx, r, "users of lost instances ask while the lease lives", min(len(users), 1000),
		func() (int64, error) {
			var refused int64
			for _, u := range users[:min(len(users), 1000)] {
				if s.request(asked, s.frontOf(u), u) != nil {
					refused++
				}
			}
			return refused, nil
		})
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Until(vanished.Add(leaseOver)))
	err = s.measure(ctx, r, "users of lost instances are placed again", len(users),
		func() (int64, error) { return s.all(ctx, users, s.frontOf) })
	r.balance = append(r.balance, named{"after the loss", balance(instances[n:])})
	return instances[n:], err
}

// deploy replaces instances by new ones, a batch at a time; their users come back at once. Some land on instances that
// are replaced later, and move again.
func (s *simulation) deploy(ctx context.Context, r *results, instances []*instance) ([]*instance, error) {
	n := int(s.deployed * float64(len(instances)))
	moves := 0
	err := s.measure(ctx, r, fmt.Sprintf("rolling deploy of %d instances", n), 0, func() (repeated int64, err error) {
		for from := 0; from < n; from += s.batch {
			users, again, err := s.replace(ctx, instances[from:min(from+s.batch, n)])
			if err != nil {
				return repeated, err
			}
			repeated, moves = repeated+again, moves+users
		}
		return repeated, nil
	})
	if err != nil {
		return nil, err
	}
	r.rows[len(r.rows)-1].users = moves
	var living []*instance
	s.byID.Range(func(_, value any) bool {
		if i := value.(*instance); !i.dead.Load() {
			living = append(living, i)
		}
		return true
	})
	r.balance = append(r.balance, named{"after the deploy", balance(living)})
	return living, nil
}

func (s *simulation) replace(ctx context.Context, old []*instance) (moved int, repeated int64, err error) {
	if _, err := s.startInstances(ctx, len(old)); err != nil {
		return 0, 0, err
	}
	moving := make(map[*instance][]int)
	for u := range s.homes {
		i := s.homes[u].Load()
		moving[i] = append(moving[i], u)
	}
	var (
		drains sync.WaitGroup
		failed = make(chan error, len(old))
		users  []int
	)
	for _, i := range old {
		users = append(users, moving[i]...)
		drains.Go(func() { failed <- i.end(ctx, moving[i]) })
	}
	drains.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return 0, 0, err
		}
	}
	repeated, err = s.all(ctx, users, s.frontOf)
	return len(users), repeated, err
}

// end is a SIGTERM.
func (i *instance) end(ctx context.Context, users []int) error {
	ctx = context.WithValue(ctx, requestKey{}, true)
	i.leaving.Store(true)
	_ = i.Drain(ctx) // as in a pool instance, beats and Close tell later what Redis was too slow for
	for _, u := range users {
		_ = i.Release(ctx, userID(u), false)
	}
	i.stop()
	<-i.stopped
	if err := i.Close(ctx, true); err != nil {
		return err
	}
	i.dead.Store(true)
	return i.client.Close()
}

// check makes sure that the figures are of a simulation in which everybody was served.
func (s *simulation) check(instances []*instance) error {
	var sum int64
	for _, i := range instances {
		sum += i.users.Load()
	}
	if sum != int64(s.users) {
		return fmt.Errorf("the living hold %d of %d users", sum, s.users)
	}
	return nil
}

func (s *simulation) everybody() []int {
	users := make([]int, s.users)
	for u := range users {
		users[u] = u
	}
	return users
}

// reach dials the address that all instances share. There is no certificate to be looked at, and nothing to keep a
// connection for.
func reach(ctx context.Context, owner router.Owner) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", owner.Addr)
	if err != nil {
		return err
	}
	return conn.Close()
}
