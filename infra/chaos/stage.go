package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/client"
	"claudepool/pool/pooltest"
)

const (
	fronts    = 2
	instances = 3 // of which the last runs the real CLI
	// startTime is how long a process may take to serve, on a machine that others use as well.
	startTime = 30 * time.Second
	// endTime is how long one may take to end after SIGTERM: that of the platform and what a busy machine adds.
	endTime = 20 * time.Second
)

// stage is the service as processes, with a relay on each line between them.
type stage struct {
	dir, bin, root string
	env            []string // of fronts and instances
	scripted, real string   // CLIs; without the real one all instances run the scripted
	logs           string   // folder of what processes write
	ledger         *ledger
	apiServer      *http.Server
	apiAddr        string
	redis          *redisPair
	firestore      *firestore // nil where the run does without
	disk           bool       // the first instance has a small disk of its own

	mu        sync.Mutex // guards the following
	fronts    [fronts]*front
	instances [instances]*instance
	taken     map[any]bool // what a fault is busy with
	count     int          // instances started so far
}

// front is one process of a front, not what takes its place later.
type front struct {
	*testkit.Process
	url     string
	redis   *testkit.Relay
	harm    harm
	retired atomic.Bool // it gets no new requests
	killed  atomic.Bool
}

// instance is one process of an instance.
type instance struct {
	*testkit.Process
	number     int
	id         string
	hop, redis *testkit.Relay
	harm       harm        // faults that its users may notice
	apart      harm        // when it could not reach Redis, or did nothing at all
	graceful   atomic.Bool // it was asked to end
}

func (f *front) String() string    { return "front " + f.url }
func (i *instance) String() string { return fmt.Sprintf("instance %d (%s)", i.number, i.id) }

// buildService returns the folder of front and poold, with what the overlay file (see go help build) replaces.
func buildService(dir, overlay string) (bin string, err error) {
	if overlay == "" {
		return pooltest.Build(pooltest.Front, pooltest.Poold)
	}
	out, err := pooltest.GoBuild(dir, "-overlay", overlay, pooltest.Front, pooltest.Poold).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
}

// newStage builds and starts everything.
func newStage(ctx context.Context, dir string, o options) (*stage, error) {
	s := &stage{dir: dir, bin: filepath.Join(dir, "bin"), root: filepath.Join(dir, "workspaces"),
		logs: filepath.Join(dir, "logs"), taken: make(map[any]bool), disk: o.disk}
	for _, folder := range []string{dir, s.bin, s.logs, s.small()} {
		// CLIs have uids of their own
		if err := errors.Join(os.MkdirAll(folder, 0o711), os.Chmod(folder, 0o711)); err != nil {
			return nil, err
		}
	}
	var err error
	if s.bin, err = buildService(s.bin, o.overlay); err != nil {
		return nil, err
	}
	if s.scripted, err = resolved(pooltest.ScriptedCLI()); err != nil {
		return nil, err
	}
	if o.real {
		if s.real, err = resolved(pooltest.RealCLI()); err != nil {
			return nil, err
		}
	}
	if err := s.start(ctx, o); err != nil {
		err = errors.Join(err, s.stop())
		s.clear()
		return nil, err
	}
	return s, nil
}

// resolved returns a path as the kernel tells it.
func resolved(path string, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

func (s *stage) start(ctx context.Context, o options) error {
	var err error
	if s.ledger, err = newLedger(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.apiAddr = listener.Addr().String()
	s.apiServer = &http.Server{Handler: s.ledger, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.apiServer.Serve(listener) }()
	if s.redis, err = startRedis(ctx, s.logs); err != nil {
		return err
	}
	isolation := "best-effort"
	if os.Geteuid() == 0 {
		isolation = "require"
	}
	s.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "HOP_KEYS=" + strings.Repeat("k", 32),
		"LOG_FORMAT=text",
		"WORKSPACES_ROOT=" + s.root, "WORKSPACE_TTL=1m", "ISOLATION=" + isolation, "UID_BASE=2060000000", "UID_COUNT=2000",
		"IDLE_TIMEOUT=15s", "CLEANUP_INTERVAL=5s", "QUEUE_LIMIT=50", "DRAIN_TIMEOUT=8s",
		"TURN_TIMEOUT=" + o.turnTime.String(), "SILENCE_TIMEOUT=" + max(o.turnTime, 45*time.Second).String()}
	s.env = append(s.env, "ARCHIVE_DIR="+filepath.Join(s.dir, "archive"))
	if o.firestore {
		if s.firestore, err = startFirestore(ctx, s.logs); err != nil {
			return err
		}
		s.env = append(s.env, "ARCHIVE_DIR=", "FIRESTORE_PROJECT=claudepool-chaos",
			"FIRESTORE_EMULATOR_HOST="+s.firestore.relay.Addr())
	}
	for n := range s.instances {
		if s.instances[n], err = s.newInstance(ctx, n); err != nil {
			return err
		}
	}
	for n := range s.fronts {
		if s.fronts[n], err = s.newFront(ctx); err != nil {
			return err
		}
	}
	return s.placeable(ctx, instances)
}

func (s *stage) newFront(ctx context.Context) (*front, error) {
	port, err := freeport.Port()
	if err != nil {
		return nil, err
	}
	f := &front{url: "http://127.0.0.1:" + port}
	if f.redis, err = s.redis.relay(); err != nil {
		return nil, err
	}
	env := append(s.env[:len(s.env):len(s.env)], "PORT="+port, "REDIS_URL=redis://"+f.redis.Addr())
	if f.Process, err = testkit.Start(s.logs, env, filepath.Join(s.bin, "front")); err != nil {
		return nil, err
	}
	c := client.Client{URL: f.url, HTTP: http.DefaultClient}
	return f, f.Await(ctx, "front", startTime, func() (bool, error) { return c.Healthy(ctx), nil })
}

var servesLine = regexp.MustCompile(`pool instance is serving.* instance=(\w+)`)

// newInstance starts an instance in the slot.
func (s *stage) newInstance(ctx context.Context, slot int) (*instance, error) {
	s.mu.Lock()
	s.count++
	i := &instance{number: s.count}
	s.mu.Unlock()
	port, err := freeport.Port()
	if err != nil {
		return nil, err
	}
	if i.hop, err = testkit.NewRelay("127.0.0.1:" + port); err != nil {
		return nil, err
	}
	if i.redis, err = s.redis.relay(); err != nil {
		return nil, err
	}
	cli, size, standby := s.scripted, 80, 2
	if slot == instances-1 && s.real != "" {
		cli, size, standby = s.real, 4, 1
	}
	env := append(s.env[:len(s.env):len(s.env)], "PORT="+port, "ADVERTISE_ADDR="+i.hop.Addr(),
		"REDIS_URL=redis://"+i.redis.Addr(), "CLAUDE_BIN="+cli,
		fmt.Sprint("MAX_PROCESSES=", size), fmt.Sprint("STANDBY=", standby),
		fmt.Sprintf("ANTHROPIC_BASE_URL=http://%s/%d", s.apiAddr, i.number))
	command := []string{filepath.Join(s.bin, "poold")}
	if slot == 0 && s.disk {
		env = append(env, "WORKSPACES_ROOT="+s.small())
		command = append([]string{"unshare", "--mount", "sh", "-c",
			`mount -t tmpfs -o size=32m,mode=0711 disk "$1" && exec "$2"`, "sh", s.small()}, command...)
	}
	if i.Process, err = testkit.Start(s.logs, env, command[0], command[1:]...); err != nil {
		return nil, err
	}
	err = i.Await(ctx, "instance", startTime, func() (bool, error) {
		found := servesLine.FindStringSubmatch(i.Log())
		if found != nil {
			i.id = found[1]
		}
		return found != nil, nil
	})
	s.ledger.know(i)
	return i, err
}

// small is the folder where the first instance has a small disk of its own, in a mount namespace that ends with it.
func (s *stage) small() string { return filepath.Join(s.dir, "small") }

// placeable waits until fronts place users on n instances.
func (s *stage) placeable(ctx context.Context, n int) error {
	return testkit.Await(ctx, "placement", startTime, func() (bool, error) {
		return testkit.Placeable(ctx, s.redis.current()) == n, nil
	})
}

// serving returns the front in the slot.
func (s *stage) serving(slot int) *front {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fronts[slot]
}

// living returns the instances that are in their slots.
func (s *stage) living() []*instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*instance(nil), s.instances[:]...)
}

// stop ends everything, instances side by side and fronts after them. The error tells of what didn't end as it should.
func (s *stage) stop() error {
	var wg sync.WaitGroup
	errs := make([]error, instances+fronts)
	for n, i := range s.instances {
		if i != nil && i.Process != nil {
			wg.Go(func() { errs[n] = i.Terminate(endTime) })
		}
	}
	wg.Wait()
	for n, f := range s.fronts {
		if f != nil && f.Process != nil {
			errs[instances+n] = f.Terminate(endTime)
		}
	}
	return errors.Join(errs...)
}

// clear ends what the service stood on. Whatever still runs, the kernel ends with the harness.
func (s *stage) clear() {
	if s.redis != nil {
		s.redis.stop()
	}
	if s.firestore != nil && s.firestore.process != nil {
		s.firestore.process.Kill()
	}
	if s.apiServer != nil {
		_ = s.apiServer.Close()
	}
}

// keys returns what Redis holds that begins so.
func (s *stage) keys(ctx context.Context, prefix string) ([]string, error) {
	return s.redis.current().Keys(ctx, "{claudepool}:"+prefix+"*").Result()
}
