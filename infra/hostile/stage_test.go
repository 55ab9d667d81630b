package hostile

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
	"claudepool/infra/need"
	"claudepool/pool/pooltest"
	"claudepool/router"
)

// long reports whether the floods are those of `make hostile`.
func long() bool { return os.Getenv("HOSTILE") == "long" }

// startTime is how long a program may take to serve, on a machine that others use as well.
const startTime = 30 * time.Second

// stage is one front and two instances with the scripted CLI, as processes of their own.
type stage struct {
	*testing.T
	url       string // the front's
	root      string // of the workspaces
	redis     *redis.Client
	api       *api
	front     *program
	instances [2]*program
	clients   *http.Client
}

// limits is how much memory the programs have; 0 is as much as they like.
type limits struct{ front, instance int64 }

func newStage(t *testing.T, limits limits, env ...string) *stage {
	need.Root(t)
	bin, err := pooltest.Build(pooltest.Front, pooltest.Poold)
	require.NoError(t, err)
	scripted, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	scripted, err = filepath.EvalSymlinks(scripted)
	require.NoError(t, err)
	s := &stage{T: t, api: newAPI(t), clients: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	t.Cleanup(s.clients.CloseIdleConnections)
	redisAddr := s.startRedis()
	dir := folder(t)
	s.root = filepath.Join(dir, "workspaces")
	env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "HOP_KEYS=" + strings.Repeat("k", 32), "LOG_FORMAT=text",
		"REDIS_URL=redis://" + redisAddr, "WORKSPACES_ROOT=" + s.root, "ISOLATION=require", "UID_BASE=2070000000", "UID_COUNT=1000",
		"CLAUDE_BIN=" + scripted, "ANTHROPIC_BASE_URL=" + s.api.url, "MAX_PROCESSES=60", "ARCHIVE_DIR=" + filepath.Join(dir, "archive")}, env...)
	for n := range s.instances {
		port, err := freeport.Port()
		require.NoError(t, err)
		s.instances[n] = s.start(limits.instance, append(env[:len(env):len(env)], "PORT="+port, "ADVERTISE_ADDR=127.0.0.1:"+port),
			filepath.Join(bin, "poold"))
	}
	port, err := freeport.Port()
	require.NoError(t, err)
	s.front = s.start(limits.front, append(env[:len(env):len(env)], "PORT="+port), filepath.Join(bin, "front"))
	s.url = "http://127.0.0.1:" + port
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.instances[0], s.instances[1], s.front)
		}
	})
	require.Eventually(t, func() bool {
		return s.redis.ZCard(t.Context(), "{claudepool}:candidates").Val() == int64(len(s.instances)) && s.healthy()
	}, startTime, 50*time.Millisecond, "nobody can be placed: %s", s.front)
	return s
}

func (s *stage) healthy() bool {
	answer, err := s.clients.Get(s.url + "/health")
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// folder is one that children with uids of their own can pass.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("", "hostile-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))
	return dir
}

func (s *stage) startRedis() (addr string) {
	addr = need.Redis(s)
	var err error
	s.redis, err = router.NewClient("redis://"+addr, "")
	require.NoError(s, err)
	s.Cleanup(func() { _ = s.redis.Close() })
	require.Eventually(s, func() bool { return router.Settle(s.Context(), s.redis) == nil }, startTime, 20*time.Millisecond)
	return addr
}

// program is a running program of the stage.
type program struct {
	cmd  *exec.Cmd
	name string
	ends chan struct{} // closed when it has ended

	mu   sync.Mutex // guards said
	said bytes.Buffer
}

// Write keeps the last of what the program says.
func (p *program) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.said.Len() > 1<<20 {
		p.said.Reset()
	}
	return p.said.Write(text)
}

// String is what the program said last.
func (p *program) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.said.Bytes()
	return p.name + ": " + string(text[max(0, len(text)-4<<10):])
}

func (p *program) runs() bool {
	select {
	case <-p.ends:
		return false
	default:
		return true
	}
}

// start starts a program that ends with the test, with so much memory.
func (s *stage) start(memory int64, env []string, path string, args ...string) *program {
	p := &program{name: filepath.Base(path), ends: make(chan struct{})}
	command := append([]string{path}, args...)
	if memory > 0 {
		group := newGroup(s.T, memory)
		command = append([]string{"/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, group}, command...)
	}
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, p, p
	require.NoError(s, p.cmd.Start())
	go func() {
		defer close(p.ends)
		_ = p.cmd.Wait()
	}()
	s.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ends:
		case <-time.After(startTime):
			_ = p.cmd.Process.Kill()
			s.Errorf("%s doesn't end", p)
		}
	})
	return p
}

// newGroup makes a cgroup with so much memory, of either version.
func newGroup(t *testing.T, memory int64) string {
	parent, limit, err := memoryGroup()
	need.Part(t, parent, err)
	group, err := os.MkdirTemp(parent, "hostile-")
	need.Part(t, group, err)
	t.Cleanup(func() {
		// What a program left behind is gone a moment after it.
		require.Eventually(t, func() bool { return os.Remove(group) == nil }, startTime, 20*time.Millisecond, group)
	})
	require.NoError(t, os.WriteFile(filepath.Join(group, limit), []byte(strconv.FormatInt(memory, 10)), 0o600))
	return group
}

// memoryGroup finds this process's own group, and the file of a group's limit.
func memoryGroup() (parent, limit string, err error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(fields) < 3:
		case fields[1] == "memory":
			return filepath.Join("/sys/fs/cgroup/memory", fields[2]), "memory.limit_in_bytes", nil
		case fields[0] == "0" && strings.Contains(readFile("/sys/fs/cgroup"+fields[2]+"/cgroup.subtree_control"), "memory"):
			return "/sys/fs/cgroup" + fields[2], "memory.max", nil
		}
	}
	return "", "", errors.New("no cgroup here can limit memory")
}

func readFile(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// resident is how much memory a program has, in bytes.
func (p *program) resident() int64 {
	for line := range strings.Lines(readFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}
