package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// burst is what became of many new users at once.
type burst struct {
	Ready  int            // standbys when it began
	Served map[string]int // requests by how their process was found
	First  []time.Duration
	Shared int // processes that served more than one user
}

// bursts lets users come within a second, several times.
func (l *lab) bursts(ctx context.Context) ([]burst, error) {
	s, err := l.startService(ctx, l.bin, l.plan.BurstStandby)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	pids := make(map[int]bool)
	var all []burst
	for i := range l.plan.bursts {
		if i > 0 {
			if err := l.settled(ctx, s); err != nil {
				return nil, err
			}
		}
		b, err := l.burst(ctx, s, pids)
		if err != nil {
			return nil, err
		}
		l.say("burst %d: %d ready, served %v", i+1, b.Ready, b.Served)
		all = append(all, b)
	}
	return all, nil
}

// settled waits until the number of standbys has stayed the same for a while.
func (l *lab) settled(ctx context.Context, s *service) error {
	last, since := -1, time.Now()
	return await(ctx, "standbys to settle", func() (bool, error) {
		n, err := s.standbys(ctx)
		if n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > l.plan.Settle, err
	})
}

func (l *lab) burst(ctx context.Context, s *service, pids map[int]bool) (burst, error) {
	b := burst{Served: make(map[string]int)}
	var err error
	if b.Ready, err = s.standbys(ctx); err != nil {
		return b, err
	}
	var (
		mu   sync.Mutex // guards b, pids and errs
		wg   sync.WaitGroup
		errs []error
	)
	every := time.NewTicker(time.Second / time.Duration(l.plan.BurstUsers))
	defer every.Stop()
	for i := range l.plan.BurstUsers {
		u := s.newUser()
		wg.Go(func() {
			text := fmt.Sprintf("user %d", i)
			got, err := u.ask(ctx, text)
			if err == nil && got.text != "reply to: "+text {
				err = fmt.Errorf("%q was answered with %q", text, got.text)
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			b.Served[got.process]++
			b.First = append(b.First, got.first)
			if pids[got.pid] {
				b.Shared++
			}
			pids[got.pid] = true
		})
		<-every.C
	}
	wg.Wait()
	return b, errors.Join(errs...)
}
