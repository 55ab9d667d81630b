package standby

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
	"claudepool/pool/pooltest"
	"claudepool/pool/workspace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should take an instant.
const patience = time.Minute

var ada, eve = broker.Credential{OAuthToken: "ada's"}, broker.Credential{OAuthToken: "eve's"}

// scriptedCLI is asked for by most tests, and to see that it is up to date takes a while too.
var scriptedCLI = sync.OnceValues(pooltest.ScriptedCLI)

// stage is a Keeper with its surroundings. Whatever it asks of them requires that it doesn't hold its lock.
type stage struct {
	*Keeper
	built    chan struct{} // closed when there is the Keeper
	t        *testing.T
	root     string // of all workspaces
	launcher *confine.Launcher
	broker   *broker.Broker
	bin      string // the CLI
	upstream string // URL of the API

	room    atomic.Int64
	short   atomic.Bool
	changed atomic.Int64
	started chan *cli.Process // each that was started
}

// newStage has a Keeper keep scripted CLIs ready; change may alter its options and what it starts. All of it is
// gone when the test ends.
func newStage(t *testing.T, change func(*stage, *Options)) *stage {
	t.Helper()
	cliPath, err := scriptedCLI()
	require.NoError(t, err)
	s := &stage{t: t, root: t.TempDir(), bin: cliPath, upstream: "http://127.0.0.1:1", built: make(chan struct{}),
		started: make(chan *cli.Process, 1000)}
	s.room.Store(100)
	log := slog.New(slog.DiscardHandler)
	s.launcher, err = confine.New(confine.Options{Root: s.root, Logger: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.launcher.Close()) })
	opts := Options{Logger: log, Starter: s, CLI: claude.Options{PermissionMode: "default"}, Min: 1,
		StartTimeout: patience, FreezeAfter: patience}
	if change != nil {
		change(s, &opts)
	}
	upstream, err := url.Parse(s.upstream)
	require.NoError(t, err)
	s.broker = broker.New(broker.Options{Upstream: upstream, Logger: log})
	t.Cleanup(s.broker.Close)
	onClaim := opts.OnClaim
	opts.Room = func() int { s.requireUnlocked(); return int(s.room.Load()) }
	opts.MemoryShort = func() bool { s.requireUnlocked(); return s.short.Load() }
	opts.Changed = func() { s.requireUnlocked(); s.changed.Add(1) }
	opts.OnClaim = func(p *cli.Process) {
		s.requireUnlocked()
		if onClaim != nil {
			onClaim(p)
		}
	}
	s.Keeper = New(opts)
	close(s.built)
	t.Cleanup(func() {
		s.Close()
		s.requireEmpty()
	})
	return s
}

// requireUnlocked waits for ever where the Keeper's lock is held.
func (s *stage) requireUnlocked() {
	<-s.built
	s.Stats()
}

func (s *stage) Queue(context.Context) error { s.requireUnlocked(); return nil }

func (s *stage) NewFolder() (*workspace.Folder, error) {
	s.requireUnlocked()
	return workspace.New(s.launcher)
}

func (s *stage) Start(ctx context.Context, in *workspace.Folder, opts claude.Options) (*cli.Process, error) {
	s.requireUnlocked()
	p, err := cli.Start(ctx, s.launcher, s.broker, cli.Spec{Bin: s.bin, Folder: in, Options: opts,
		MCPTimeout: time.Second, Logger: slog.New(slog.DiscardHandler),
		Limits: cli.Limits{Silence: patience, InterruptGrace: patience, Turn: time.Hour, Approval: time.Hour,
			Rate: 1 << 30, Burst: 1 << 30}})
	if err == nil {
		s.started <- p
	}
	return p, err
}

// claim claims a process, which ends with the test.
func (s *stage) claim(system string) (*Process, error) {
	p, err := s.Claim(s.t.Context(), ada, system)
	if err == nil {
		s.t.Cleanup(func() { assert.NoError(s.t, errors.Join(p.Stop(), p.Folder.Remove())) })
	}
	return p, err
}

func (s *stage) requireClaim(system string) *Process {
	s.t.Helper()
	p, err := s.claim(system)
	require.NoError(s.t, err)
	return p
}

// await waits until at least n processes are ready.
func (s *stage) await(n int) {
	s.t.Helper()
	s.eventually(func() bool { return s.Stats().Ready >= n })
}

func (s *stage) eventually(is func() bool) {
	s.t.Helper()
	require.Eventually(s.t, is, patience, time.Millisecond)
}

// look has the Keeper see now what it would see after a while.
func (s *stage) look() { signal(s.wake) }

// readyPIDs are the process ids of those that are ready, oldest first.
func (s *stage) readyPIDs() (pids []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ready {
		pids = append(pids, p.PID())
	}
	return pids
}

// blanks is how many are ready that take a system prompt.
func (s *stage) blanks() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ready {
		if p.kind.blank {
			n++
		}
	}
	return n
}

// workspaces are the folders there are.
func (s *stage) workspaces() int {
	s.t.Helper()
	entries, err := os.ReadDir(s.root)
	require.NoError(s.t, err)
	return len(entries)
}

// requireEmpty requires that nothing is left of what wasn't claimed.
func (s *stage) requireEmpty() {
	s.t.Helper()
	close(s.started)
	for p := range s.started {
		<-p.Exited()
	}
	require.Zero(s.t, s.workspaces())
	require.Zero(s.t, s.Stats().Ready)
	require.Zero(s.t, s.pending)
}

// state is a process's state as the kernel has it: S sleeps, T is stopped, and empty is gone.
func state(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return after[:1]
}

func (s *stage) awaitState(pid int, want string) {
	s.t.Helper()
	s.eventually(func() bool { return state(pid) == want })
}
