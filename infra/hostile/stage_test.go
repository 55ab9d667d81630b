package hostile

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/client"
	"claudepool/infra/testkit/contract"
	"claudepool/infra/testkit/need"
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
	client    *client.Client // of the front
	root      string         // of the workspaces
	logs      string
	redis     *redis.Client
	api       *api
	front     *testkit.Process
	instances [2]*testkit.Process
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
	checked, err := contract.New(&http.Transport{MaxIdleConnsPerHost: 256})
	require.NoError(t, err)
	clients := &http.Client{Transport: checked}
	t.Cleanup(clients.CloseIdleConnections)
	t.Cleanup(func() { require.Empty(t, checked.Violations(), "not as the service is described") })
	dir := testkit.Folder(t)
	s := &stage{T: t, api: newAPI(t), root: filepath.Join(dir, "workspaces"), logs: dir}
	redisAddr := s.startRedis()
	env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "HOP_KEYS=" + strings.Repeat("k", 32),
		"LOG_FORMAT=text",
		"REDIS_URL=redis://" + redisAddr, "WORKSPACES_ROOT=" +
			s.root, "ISOLATION=require", "UID_BASE=2070000000", "UID_COUNT=1000",
		"CLAUDE_BIN=" + scripted, "ANTHROPIC_BASE_URL=" + s.api.url, "MAX_PROCESSES=60", "ARCHIVE_DIR=" +
			filepath.Join(dir, "archive")}, env...)
	for n := range s.instances {
		port, err := freeport.Port()
		require.NoError(t, err)
		s.instances[n] = s.start(limits.instance, append(env[:len(env):len(env)], "PORT="+port,
			"ADVERTISE_ADDR=127.0.0.1:"+port),
			filepath.Join(bin, "poold"))
	}
	port, err := freeport.Port()
	require.NoError(t, err)
	s.front = s.start(limits.front, append(env[:len(env):len(env)], "PORT="+port), filepath.Join(bin, "front"))
	s.client = &client.Client{URL: "http://127.0.0.1:" + port, HTTP: clients}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.instances[0], s.instances[1], s.front)
		}
	})
	require.Eventually(t, func() bool {
		return testkit.Placeable(t.Context(), s.redis) == len(s.instances) && s.client.Healthy(t.Context())
	}, startTime, 50*time.Millisecond, "nobody can be placed: %s", s.front)
	return s
}

func (s *stage) startRedis() (addr string) {
	addr = testkit.Redis(s)
	var err error
	s.redis, err = router.NewClient("redis://"+addr, "")
	require.NoError(s, err)
	s.Cleanup(func() { _ = s.redis.Close() })
	require.Eventually(s, func() bool { return router.EndSettling(s.Context(), s.redis) == nil }, startTime,
		20*time.Millisecond)
	return addr
}

// start starts a program that ends with the test, with so much memory.
func (s *stage) start(memory int64, env []string, path string) *testkit.Process {
	command := []string{path}
	if memory > 0 {
		command = []string{"/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, newGroup(s.T, memory), path}
	}
	p, err := testkit.Start(s.logs, env, command[0], command[1:]...)
	require.NoError(s, err)
	s.Cleanup(func() {
		assert.NoError(s, p.Terminate(startTime), p)
		p.Kill()
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
func resident(p *testkit.Process) int64 {
	process, err := procfs.NewProc(p.PID())
	if err != nil {
		return 0
	}
	status, _ := process.NewStatus() // of one that has ended there is none
	return int64(status.VmRSS)
}
