package router

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"
)

var errLost = errors.New("lost on the way")

// cluster is what all runs of the model share: real servers, of which one is the Redis of the moment, and an address
// that can be dialled.
type cluster struct {
	servers []*redis.Client
	runs    []string
	addr    string
}

func newCluster(t *testing.T, servers int) *cluster {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			_ = conn.Close()
		}
	}()
	c := &cluster{addr: listener.Addr().String()}
	for range servers {
		client := newRedis(t, false)
		c.servers = append(c.servers, client)
		c.runs = append(c.runs, client.InfoMap(t.Context(), "server").Item("Server", "run_id")[:12])
	}
	return c
}

// load puts the scripts of the moment on every server, so that running one is one command.
func (c *cluster) load(t *testing.T) {
	t.Helper()
	for _, server := range c.servers {
		for _, script := range []*redis.Script{claimScript, beatScript, assertScript, ownScript, releaseScript, placeScript} {
			require.NoError(t, script.Load(t.Context(), server).Err())
		}
	}
}

// network carries commands to the Redis of the moment, when the model says so.
type network struct {
	*cluster
	at     int           // the Redis of the moment; the next one is its replica
	now    time.Duration // simulated
	passed time.Time     // when the servers' clocks were last set right
	ops    []*op         // under way, each waiting for a command
	late   []lateCommand

	others  bool // beat all the time: instances that nobody is placed on
	changed bool // something has happened since the last check
	// sent is called after each command that Redis executed.
	sent func(redis.Cmder)
}

// op is something a front or an instance does. It runs alone until it sends a command; then it waits for the model.
type op struct {
	yield chan struct{}
	call  *call // it waits for
	done  bool
}

type call struct {
	from     *link
	cmds     []redis.Cmder
	executed bool
	answer   chan error
}

// lateCommand was given up by its sender and may still be executed by the server it was sent to.
type lateCommand struct {
	at   int
	args []any
}

type opKey struct{}

// link is the way from one process to Redis.
type link struct {
	net *network
	up  bool
}

func (n *network) newLink() (*link, *redis.Client) {
	l := &link{net: n, up: true}
	client := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:1", MaxRetries: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	client.AddHook(l)
	return l, client
}

func (l *link) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *link) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return l.submit(ctx, []redis.Cmder{cmd}) }
}

func (l *link) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return l.submit
}

// submit hands commands to the model, or executes them at once where no op is watched.
func (l *link) submit(ctx context.Context, cmds []redis.Cmder) error {
	c := &call{from: l, cmds: cmds, answer: make(chan error)}
	o, watched := ctx.Value(opKey{}).(*op)
	if !watched {
		return l.net.execute(c)
	}
	o.call = c
	o.yield <- struct{}{}
	return <-c.answer
}

// start begins an op and lets it run to its first command.
func (n *network) start(body func(ctx context.Context)) {
	o := &op{yield: make(chan struct{})}
	go func() {
		body(context.WithValue(context.Background(), opKey{}, o))
		o.done = true
		o.yield <- struct{}{}
	}()
	<-o.yield
	if !o.done {
		n.ops = append(n.ops, o)
	}
}

// resume answers the command an op waits for, and lets it run to its next one or its end.
func (n *network) resume(o *op, err error) {
	if err != nil {
		for _, cmd := range o.call.cmds {
			cmd.SetErr(err)
		}
	}
	n.changed = true
	o.call.answer <- err
	<-o.yield
	if o.done {
		n.ops = slices.DeleteFunc(n.ops, func(other *op) bool { return other == o })
	}
}

// execute has Redis execute a call's commands, if its process reaches Redis.
func (n *network) execute(c *call) error {
	if !c.from.up {
		for _, cmd := range c.cmds {
			cmd.SetErr(errLost)
		}
		return errLost
	}
	c.executed = true
	n.changed = true
	var failed error
	for _, cmd := range c.cmds {
		if name := cmd.Name(); name == "multi" || name == "exec" {
			continue // nothing comes between the commands of one call
		}
		if err := n.servers[n.at].Process(context.Background(), cmd); err != nil && failed == nil {
			failed = err
		}
		n.sent(cmd)
	}
	return failed
}

// deliver hands the answer of an executed command back.
func (n *network) deliver(o *op) {
	var err error
	if !o.call.from.up {
		err = errLost
	} else if first := o.call.cmds[0]; len(o.call.cmds) == 1 {
		err = first.Err()
	}
	n.resume(o, err)
}

// again executes a copy of a command, whose answer nobody reads.
func (n *network) again(args []any) {
	n.changed = true
	cmd := redis.NewCmd(context.Background(), args...)
	_ = n.servers[n.at].Process(context.Background(), cmd)
	n.sent(cmd)
}

// finish lets every op come to its end, all commands answered by err, or executed if it is nil.
func (n *network) finish(only *link, err error) {
	for i := 0; i < len(n.ops); {
		o := n.ops[i]
		switch {
		case only != nil && o.call.from != only:
			i++
		case err != nil:
			n.resume(o, err)
		case !o.call.executed && n.execute(o.call) != nil, o.call.executed:
			n.deliver(o)
		}
	}
}

// quantum is the unit of simulated time. What really passes between two steps is a small part of it and is taken back.
const quantum = time.Second

// passScript lets time pass on a server: every deadline comes nearer.
var passScript = redis.NewScript(`
local d, q = tonumber(ARGV[1]), tonumber(ARGV[2])
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 then
    left = math.ceil(left / q) * q - d
    if left > 0 then redis.call('PEXPIRE', key, left) else redis.call('DEL', key) end
  end
end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
for _, field in ipairs({'since', 'beat'}) do
  local at = tonumber(redis.call('HGET', KEYS[1], field) or '0')
  local age = math.floor((now - at) / q) * q + d
  if field == 'beat' and ARGV[3] == '1' then age = 0 end
  if at > 0 then redis.call('HSET', KEYS[1], field, string.format('%.0f', now - age)) end
end
return 1`)

func (n *network) pass(d time.Duration) error {
	for _, server := range n.servers {
		err := passScript.Run(context.Background(), server, []string{epochKey}, d.Milliseconds(), quantum.Milliseconds(),
			n.others).Err()
		if err != nil {
			return err
		}
	}
	n.now += d
	n.passed = time.Now()
	return nil
}

// stalled says that too much real time has passed for the simulated time to be exact.
func (n *network) stalled() bool { return time.Since(n.passed) > quantum*9/10 }

// replicate makes the next server's data those of the present one.
func (n *network) replicate() error {
	ctx, from, to := context.Background(), n.servers[n.at], n.servers[n.at+1]
	if err := to.FlushAll(ctx).Err(); err != nil {
		return err
	}
	for _, key := range from.Keys(ctx, "*").Val() {
		left := max(0, from.PTTL(ctx, key).Val())
		if err := to.Restore(ctx, key, left, from.Dump(ctx, key).Val()).Err(); err != nil {
			return err
		}
	}
	return nil
}
