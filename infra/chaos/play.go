package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"claudepool/infra/testkit/contract"
	"claudepool/router"
)

const (
	// maxRecovery is how long it is waited for everybody to be served again; what is beyond recovery is a violation.
	maxRecovery = 45 * time.Second
	// apartMost is how long after the first fault of a pair the second one comes, at most.
	apartMost = 4 * time.Second
)

// play runs the faults one act after the other until the time is over.
func play(ctx context.Context, dir string, o options, acts [][]fault) (*results, error) {
	s, err := newStage(ctx, dir, o)
	if err != nil {
		return nil, err
	}
	defer s.clear()
	r := newResults(o)
	checked, err := contract.New(&http.Transport{DisableKeepAlives: true})
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	l := newLoad(s, o, checked)
	w := &watcher{stage: s, load: l, owners: make(map[string]string)}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go w.watch(watching)
	l.start(ctx)
	defer l.end()

	l.settle(ctx, time.Now(), maxRecovery)
	r.began = time.Now()
	healed := r.began.Add(-router.LeaseTime)
	for n, act := range acts {
		if n > 0 && time.Since(r.began) > o.duration {
			break
		}
		time.Sleep(time.Until(healed.Add(router.LeaseTime))) // a Redis that lost something places nobody before
		r.add(s.ledger.begin(nameOf(act)))
		if healed, err = perform(ctx, s, l, act, o); err != nil {
			return nil, errors.Join(err, s.stop())
		}
	}
	l.end()
	r.add(s.ledger.begin("the end of all"))
	if err := s.stop(); err != nil {
		s.ledger.violation(func(r *row) { r.left++ }, "%v", err)
	}
	if left := s.left(ctx, nil, "instance:", "evict:", "owner:", "candidates", "evictable", "pending"); left != "" {
		s.ledger.violation(func(r *row) { r.left++ }, "left: %s", left)
	}
	for _, v := range checked.Violations() {
		s.ledger.violation(func(r *row) { r.wrong++ }, "not as the service is described: %s", v)
	}
	r.add(s.ledger.begin(""))
	r.notes = s.ledger.notes
	return r, ctx.Err()
}

// plan is every fault once and then all pairs of different groups, each in an order that the seed decides.
func plan(o options) (acts [][]fault) {
	random := rand.New(rand.NewPCG(uint64(o.seed), 0))
	var pairs [][]fault
	all := slices.DeleteFunc(faults(), func(f fault) bool {
		return f.group == "firestore" && !o.firestore || f.name == diskFull && !o.disk
	})
	for i, a := range all {
		acts = append(acts, []fault{a})
		for _, b := range all[i+1:] {
			if a.group != b.group {
				pairs = append(pairs, []fault{a, b})
			}
		}
	}
	random.Shuffle(len(acts), func(i, j int) { acts[i], acts[j] = acts[j], acts[i] })
	random.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	var chosen [][]fault
	for _, act := range append(acts, pairs...) {
		if strings.Contains(nameOf(act), o.only) {
			chosen = append(chosen, act)
		}
	}
	return chosen
}

func nameOf(acts []fault) string {
	names := make([]string, len(acts))
	for i, f := range acts {
		names[i] = f.name
	}
	return strings.Join(names, " + ")
}

// perform lets faults happen at the same time and waits until all is well again.
// It tells when the last of them began to be set right.
func perform(ctx context.Context, s *stage, l *load, acts []fault, o options) (healed time.Time, err error) {
	var mu sync.Mutex // guards healed
	var wg sync.WaitGroup
	errs := make([]error, len(acts))
	for n, f := range acts {
		random := rand.New(rand.NewPCG(uint64(o.seed), nameHash(nameOf(acts))+uint64(n)))
		wg.Go(func() {
			time.Sleep(time.Duration(int64(n) * random.Int64N(int64(apartMost))))
			at, err := f.happen(&injection{ctx: ctx, stage: s, load: l, random: random})
			mu.Lock()
			defer mu.Unlock()
			if errs[n] = err; at.After(healed) {
				healed = at
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return healed, err
	}
	l.settle(ctx, healed, o.within)
	if ctx.Err() != nil {
		return healed, ctx.Err()
	}
	if left := s.left(ctx, s.living(), "instance:", "evict:"); left != "" {
		s.ledger.violation(func(r *row) { r.left++ }, "left: %s", left)
	}
	return healed, nil
}

// happen does what the fault is about, and tells when it began to be set right.
func (f fault) happen(b *injection) (healed time.Time, err error) {
	defer b.done()
	heal, err := f.strike(b)
	if err != nil {
		return time.Now(), err
	}
	select {
	case <-time.After(f.hold):
	case <-b.ctx.Done():
	}
	healed = time.Now()
	return healed, heal()
}

// settle waits until everybody is served again, and counts the users that aren't in time.
func (l *load) settle(ctx context.Context, since time.Time, within time.Duration) {
	took, missing := l.recovered(ctx, since)
	if ctx.Err() != nil {
		return
	}
	ledger := l.stage.ledger
	ledger.count(func(r *row) { r.recovered = took })
	for _, t := range missing {
		ledger.violation(func(r *row) { r.late++ }, "user %s was not served within %s", t.user, maxRecovery)
	}
	if len(missing) == 0 && took > within {
		ledger.violation(func(r *row) { r.late++ }, "everybody was served again only after %s", took)
	}
}

// nameHash makes what a fault hits independent of what came before it.
func nameHash(name string) (h uint64) {
	for _, c := range name {
		h = h*31 + uint64(c)
	}
	return h
}
