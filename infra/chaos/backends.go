package main

import (
	"context"
	"os"
	"os/exec"
	"sync"

	"github.com/redis/go-redis/v9"

	"claudepool/infra/emulator"
	"claudepool/infra/freeport"
	"claudepool/router"
)

// redisPair is a Redis with a replica. Every process of the service reaches it by a relay of its own; the harness
// itself does without.
type redisPair struct {
	spawner *spawner
	bin     string

	mu               sync.Mutex // guards the following
	primary, replica *redisServer
	relays           []*relay
	client           *redis.Client // of the primary
}

type redisServer struct {
	*process
	port string
}

func (r *redisServer) addr() string { return "127.0.0.1:" + r.port }

// startRedis starts both, and ends the waiting time of the one that has just come up.
func startRedis(ctx context.Context, s *spawner) (*redisPair, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	p := &redisPair{spawner: s, bin: bin}
	if p.primary, err = p.server(""); err != nil {
		return nil, err
	}
	if p.replica, err = p.server(p.primary.port); err != nil {
		return nil, err
	}
	if err := p.connect(); err != nil {
		return nil, err
	}
	return p, await("redis-server", p.primary.process, startTime, func() bool { return router.Settle(ctx, p.client) == nil })
}

// server starts one on a free port, or, with the port of another, a replica of that.
func (p *redisPair) server(of string) (*redisServer, error) {
	port, err := freeport.Port()
	if err != nil {
		return nil, err
	}
	r := &redisServer{port: port}
	return r, p.run(r, of)
}

func (p *redisPair) run(r *redisServer, of string) (err error) {
	args := []string{"--port", r.port, "--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0"}
	if of != "" {
		args = append(args, "--replicaof", "127.0.0.1", of)
	}
	r.process, err = p.spawner.start([]string{"PATH=" + os.Getenv("PATH")}, p.bin, args...)
	return err
}

func (p *redisPair) connect() error {
	client, err := router.NewClient("redis://"+p.primary.addr(), "")
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
func (p *redisPair) relay() (*relay, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := newRelay(p.primary.addr())
	if err == nil {
		p.relays = append(p.relays, r)
	}
	return r, err
}

// each does something to all ways to the primary.
func (p *redisPair) each(do func(*relay)) {
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
	p.primary.kill()
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
	p.each(func(r *relay) { r.aim(p.primary.addr()) })
	p.replica, err = p.server(p.primary.port)
	return err
}

func (p *redisPair) stop() {
	for _, r := range []*redisServer{p.primary, p.replica} {
		if r != nil && r.process != nil {
			r.kill()
		}
	}
	if p.client != nil {
		_ = p.client.Close()
	}
}

// firestore is the emulator, behind one relay for all.
type firestore struct {
	spawner *spawner
	process *process
	port    string
	relay   *relay
}

func startFirestore(s *spawner) (*firestore, error) {
	port, err := freeport.Port()
	if err != nil {
		return nil, err
	}
	f := &firestore{spawner: s, port: port}
	if f.relay, err = newRelay("127.0.0.1:" + port); err != nil {
		return nil, err
	}
	return f, f.run()
}

func (f *firestore) run() error {
	command, err := emulator.Command(f.port)
	if err != nil {
		return err
	}
	f.process, err = f.spawner.start([]string{"PATH=" + os.Getenv("PATH")}, command[0], command[1:]...)
	if err != nil {
		return err
	}
	return emulator.Ready(context.Background(), "127.0.0.1:"+f.port)
}
