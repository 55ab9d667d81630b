package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"claudepool/router"
)

// simulation is one program's worth of fronts and instances.
type simulation struct {
	sizes
	url   string
	addr  string // all instances' address: fronts dial it once for each
	admin *redis.Client

	fronts []*router.Router
	homes  []atomic.Pointer[instance] // by user: who admitted him last
	byID   sync.Map                   // instance id to *instance

	requested, background atomic.Int64 // commands sent to Redis
	moved                 atomic.Int64 // users that Redis had given to another
}

// instance is what fronts see of a pool instance.
type instance struct {
	*router.Lease
	stop    context.CancelFunc
	stopped chan struct{}
	client  *redis.Client
	dead    atomic.Bool
	leaving atomic.Bool
	users   atomic.Int64
}

type requestKey struct{}

// counter counts the commands that requests cost apart from those that go on by themselves.
type counter struct{ *simulation }

func (c counter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.count(ctx, 1)
		return next(ctx, cmd)
	}
}

func (c counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.count(ctx, len(cmds))
		return next(ctx, cmds)
	}
}

func (c counter) count(ctx context.Context, n int) {
	if ctx.Value(requestKey{}) != nil {
		c.requested.Add(int64(n))
	} else {
		c.background.Add(int64(n))
	}
}

func (s *simulation) client(connections int) (*redis.Client, error) {
	parsed, err := router.NewClient(s.url, "")
	if err != nil {
		return nil, err
	}
	opts := *parsed.Options()
	if err := parsed.Close(); err != nil {
		return nil, err
	}
	opts.PoolSize = connections
	opts.PoolTimeout = time.Minute // a busy machine is not what is measured here
	opts.ReadTimeout, opts.WriteTimeout = 5*time.Second, 5*time.Second
	client := redis.NewClient(&opts)
	client.AddHook(counter{s})
	return client, nil
}

// listen accepts the fronts' first connections for all instances.
func (s *simulation) listen(ctx context.Context) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	go func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			_ = conn.Close()
		}
	}()
	s.addr = listener.Addr().String()
	return nil
}

func (s *simulation) startInstance(ctx context.Context) (*instance, error) {
	client, err := s.client(4)
	if err != nil {
		return nil, err
	}
	i := &instance{client: client, stopped: make(chan struct{})}
	i.Lease = router.NewLease(client, router.LeaseOptions{Logger: slog.New(slog.DiscardHandler), Addr: s.addr,
		Capacity: s.capacity,
		HomeTTL:  time.Hour,
		Load:     func() (int, int) { n := int(i.users.Load()); return n, n },
		Evict: func(user string) {
			s.moved.Add(1)
			_ = i.Release(context.Background(), user, false)
		}})
	s.byID.Store(i.ID(), i)
	beats, stop := context.WithCancel(ctx)
	i.stop = stop
	go func() {
		defer close(i.stopped)
		select { // instances don't start in step
		case <-beats.Done():
		case <-time.After(rand.N(time.Second)):
			i.Run(beats)
		}
	}()
	return i, nil
}

// vanish is a SIGKILL.
func (i *instance) vanish() {
	i.dead.Store(true)
	i.stop()
	<-i.stopped
	_ = i.client.Close()
}

func userID(u int) string { return fmt.Sprintf("%016x", uint64(u)*0x9e3779b97f4a7c15) }

var errNotServed = errors.New("not served now")

// request does what a front and an instance do until a turn begins.
func (s *simulation) request(ctx context.Context, front *router.Router, u int) error {
	user := userID(u)
	for range 2 {
		owner, err := front.Route(ctx, user)
		if err != nil {
			return err
		}
		found, ok := s.byID.Load(owner.Instance)
		if !ok {
			return errNotServed
		}
		i := found.(*instance)
		if i.dead.Load() {
			front.Unreachable(ctx, user, owner)
			continue
		}
		if err = errNotServed; !i.leaving.Load() {
			err = i.Admit(ctx, user, owner.Outage)
		}
		if err == nil {
			s.admitted(i, u)
			return nil
		}
		front.Misdirected(user, owner)
	}
	return errNotServed
}

func (s *simulation) admitted(i *instance, u int) {
	if was := s.homes[u].Swap(i); was != i {
		i.users.Add(1)
		if was != nil {
			was.users.Add(-1)
		}
	}
}

// all sends one request for each user, several at a time, and again for those who weren't served. It returns how many
// had to be repeated.
func (s *simulation) all(ctx context.Context, users []int, front func(u int) *router.Router) (repeated int64,
	err error) {
	queue := make(chan int, len(users))
	for _, u := range users {
		queue <- u
	}
	var left, again atomic.Int64
	left.Store(int64(len(users)))
	ctx, done := context.WithCancel(context.WithValue(ctx, requestKey{}, true))
	defer done()
	if len(users) == 0 {
		return 0, nil
	}
	var workers sync.WaitGroup
	for range s.workers {
		workers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case u := <-queue:
					if s.request(ctx, front(u), u) != nil {
						again.Add(1)
						queue <- u
					} else if left.Add(-1) == 0 {
						done()
					}
				}
			}
		})
	}
	workers.Wait()
	if left.Load() > 0 {
		return again.Load(), fmt.Errorf("%d users were not served: %w", left.Load(), ctx.Err())
	}
	return again.Load(), nil
}

// frontOf is the front that usually gets a user's requests.
func (s *simulation) frontOf(u int) *router.Router    { return s.fronts[u%len(s.fronts)] }
func (s *simulation) anotherFor(u int) *router.Router { return s.fronts[(u+1)%len(s.fronts)] }

// balance is the most that one of the instances has, by the mean.
func balance(instances []*instance) float64 {
	var most, sum int64
	for _, i := range instances {
		most = max(most, i.users.Load())
		sum += i.users.Load()
	}
	return float64(most) / (float64(sum) / float64(len(instances)))
}

func init() { debug.SetGCPercent(200) } // the simulation's own memory is not what is measured
