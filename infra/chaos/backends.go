package main

import (
	"context"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/emulator"
	"claudepool/router"
)

// redisPair is a Redis with a replica. Every process of the service reaches it by a relay of its own; the harness
// itself does without.
type redisPair struct {
	folder string // of logs

	mu               sync.Mutex // guards the following
	primary, replica *redisServer
	relays           []*testkit.Relay
	client           *redis.Client // of the primary
}

type redisServer struct {
	*testkit.Process
	addr string
}

// startRedis starts both, and ends the waiting time of the one that has just come up.
func startRedis(ctx context.Context, folder string) (*redisPair, error) {
	p := &redisPair{folder: folder}
	var err error
	if p.primary, err = p.server(""); err != nil {
		return nil, err
	}
	if p.replica, err = p.server(p.primary.addr); err != nil {
		return nil, err
	}
	if err := p.connect(); err != nil {
		return nil, err
	}
	return p, p.primary.Await(ctx, "redis-server", startTime, func() (bool, error) {
		return true, router.EndSettling(ctx, p.client)
	})
}

// server starts one at a free address, or, with the address of another, a replica of that.
func (p *redisPair) server(of string) (*redisServer, error) {
	addr, err := freeport.Addr()
	if err != nil {
		return nil, err
	}
	r := &redisServer{addr: addr}
	return r, p.run(r, of)
}

func (p *redisPair) run(r *redisServer, of string) (err error) {
	args := []string{"--repl-diskless-sync-delay", "0"}
	if host, port, found := strings.Cut(of, ":"); found {
		args = append(args, "--replicaof", host, port)
	}
	r.Process, err = testkit.StartRedis(p.folder, r.addr, args...)
	return err
}

func (p *redisPair) connect() error {
	client, err := router.NewClient("redis://"+p.primary.addr, "")
	if err != nil {
		return err
	}
	if p.client != nil {
		_ = p.client.Close()
	}
	p.client = client
	return nil
}

// current returns the client of the present primary.
func (p *redisPair) current() *redis.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client
}

// relay returns a new way to the primary.
func (p *redisPair) relay() (*testkit.Relay, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := testkit.NewRelay(p.primary.addr)
	if err == nil {
		p.relays = append(p.relays, r)
	}
	return r, err
}

// each does something to all ways to the primary.
func (p *redisPair) each(do func(*testkit.Relay)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.relays {
		do(r)
	}
}

// restart starts the primary where it was, empty. Its replica becomes empty as well.
func (p *redisPair) restart() error { return p.run(p.primary, "") }

// failOver kills the primary and puts the replica in its place. It gets a new replica.
func (p *redisPair) failOver(ctx context.Context) error {
	p.primary.Kill()
	p.mu.Lock()
	p.primary = p.replica
	err := p.connect()
	client := p.client
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if err := client.ReplicaOf(ctx, "NO", "ONE").Err(); err != nil {
		return err
	}
	p.each(func(r *testkit.Relay) { r.Aim(p.primary.addr) })
	p.replica, err = p.server(p.primary.addr)
	return err
}

func (p *redisPair) stop() {
	for _, r := range []*redisServer{p.primary, p.replica} {
		if r != nil && r.Process != nil {
			r.Kill()
		}
	}
	if p.client != nil {
		_ = p.client.Close()
	}
}

// firestore is the emulator, behind one relay for all.
type firestore struct {
	folder  string // of logs
	addr    string
	process *testkit.Process
	relay   *testkit.Relay
}

func startFirestore(ctx context.Context, folder string) (*firestore, error) {
	addr, err := freeport.Addr()
	if err != nil {
		return nil, err
	}
	f := &firestore{folder: folder, addr: addr}
	if f.relay, err = testkit.NewRelay(addr); err != nil {
		return nil, err
	}
	return f, f.run(ctx)
}

func (f *firestore) run(ctx context.Context) (err error) {
	f.process, err = emulator.Start(ctx, f.folder, f.addr)
	return err
}
