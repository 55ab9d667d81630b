// Package docker_test builds the images' root file systems without a container engine and runs from them what the
// images would run.
package docker_test

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/client"
	"claudepool/infra/testkit/need"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/pooltest"
	"claudepool/router"
)

func realCLI(t *testing.T) string {
	t.Helper()
	cli, err := pooltest.RealCLI()
	return need.Part(t, cli, err)
}

func TestImages_SayWhatTheyAre(t *testing.T) {
	for file, user := range map[string]string{"front.Dockerfile": "65532:65532", "pool.Dockerfile": "0:0"} {
		i := read(t, file)
		require.Equal(t, user, i.user, file)
		require.Equal(t, []string{"8080"}, i.exposed, file)
		require.Contains(t, i.env, "PORT=8080", file)
		require.Equal(t, "golang:"+goVersion(t)+"-bookworm", i.args["GOLANG"], file)
		require.Equal(t, i.base(), i.labels["org.opencontainers.image.base.name"], file)
		require.Equal(t, "${REVISION}", i.labels["org.opencontainers.image.revision"], file)
	}
}

// goVersion is the one go.mod asks for, without its last part.
func goVersion(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "go.mod"))
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(text)
	require.NotNil(t, version)
	return string(version[1])
}

func TestContext_HoldsWhatIsBuiltAndNothingElse(t *testing.T) {
	files := contextFiles(t)
	require.Contains(t, files, "go.sum")
	require.Contains(t, files, "infra/claude.env")
	for _, file := range files {
		require.NotRegexp(t, `^\.|_test\.go$|\.md$|^terraform|^infra/(docker|cloudbuild)/`, file)
	}
}

// TestImages_AnswerATurn runs both images: the front's in a folder that holds nothing else.
func TestImages_AnswerATurn(t *testing.T) {
	need.Root(t)
	realCLI(t)
	d := deploy(t)

	answer := d.ask("hello")
	require.Contains(t, answer, `"result":"reply to: hello"`)
	require.True(t, strings.HasSuffix(answer, api.Done), answer)
	require.Contains(t, answer, `"claude_code_version":"`+claude.Version+`"`)

	t.Run("tools", func(t *testing.T) { testTools(t, d) })
	t.Run("rights", func(t *testing.T) { testRights(t, d) })
	t.Run("orphans", func(t *testing.T) { testOrphans(t, d) })
	t.Run("end", func(t *testing.T) { testEnd(t, d) })
}

// deployment is a front and an instance in roots of their own, on the machine's network.
type deployment struct {
	t        *testing.T
	client   *client.Client // of the front
	poolRoot string
	pool     *exec.Cmd
	front    *exec.Cmd
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	need.Program(t, "mmdebstrap")
	redisURL := "redis://" + testkit.Redis(t)
	upstream, err := pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(upstream.Close)
	poolPort, frontPort := freePort(t), freePort(t)
	redis, err := router.NewClient(redisURL, "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = redis.Close() })
	settled := func() bool { return router.EndSettling(t.Context(), redis) == nil }
	require.Eventually(t, settled, 10*time.Second, 20*time.Millisecond)

	settings := []string{"REDIS_URL=" + redisURL, "HOP_KEYS=" + strings.Repeat("k", 32), "LOG_FORMAT=text"}
	d := &deployment{t: t, client: &client.Client{URL: "http://127.0.0.1:" + frontPort, HTTP: http.DefaultClient}}
	pool := read(t, "pool.Dockerfile")
	d.poolRoot = pool.root()
	requireClean(t, d.poolRoot)
	d.pool = enter(d.poolRoot, pool.entrypoint...)
	d.pool.Env = append(append(pool.env, settings...), "ISOLATION=require",
		"UID_BASE=2050000000", // beyond those of other tests' instances, whose locks can't be seen from within
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"PORT="+poolPort, "ADVERTISE_ADDR=127.0.0.1:"+poolPort, "ANTHROPIC_BASE_URL="+upstream.URL(), "STANDBY=1")
	start(t, d.pool, "poold")

	front := read(t, "front.Dockerfile")
	root := filepath.Join(t.TempDir(), "root")
	front.install(root)
	d.front = exec.Command(front.entrypoint[0], front.entrypoint[1:]...)
	d.front.Dir = "/"
	d.front.Env = append(append(front.env, settings...), "PORT="+frontPort)
	uid, gid, _ := strings.Cut(front.user, ":")
	d.front.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: number(t, uid),
		Gid: number(t, gid)}}
	start(t, d.front, "front")
	require.Eventually(t, func() bool { return d.client.Healthy(t.Context()) }, 30*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		return len(redis.Keys(t.Context(), "{claudepool}:instance:*").Val()) == 1
	}, 30*time.Second, 50*time.Millisecond)
	return d
}

// requireClean checks what the image has before anything has run from it.
func requireClean(t *testing.T, root string) {
	t.Helper()
	lists, err := os.ReadDir(filepath.Join(root, "var/lib/apt/lists"))
	require.NoError(t, err)
	require.Empty(t, lists)
	workspaces, err := os.Stat(filepath.Join(root, "workspaces"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o711), workspaces.Mode().Perm())
	requireNoOtherRights(t, root)
	certificates, err := os.ReadFile(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"))
	require.NoError(t, err)
	require.Contains(t, string(certificates), "BEGIN CERTIFICATE")
}

// requireNoOtherRights looks for programs that whoever runs them gets more rights by: those of their owner, of their
// group, or capabilities of the file.
func requireNoOtherRights(t *testing.T, root string) {
	t.Helper()
	files := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		info, err := entry.Info()
		require.NoError(t, err)
		require.Zero(t, info.Mode()&(fs.ModeSetuid|fs.ModeSetgid), path)
		_, err = unix.Getxattr(path, "security.capability", nil)
		require.True(t, errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP), "%s: %v", path, err)
		return nil
	}))
	require.Greater(t, files, 1000, "the root is there")
}

func number(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	require.NoError(t, err)
	return uint32(n)
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := freeport.Port()
	require.NoError(t, err)
	return port
}

// start starts a process that ends with the test, or before when asked to.
func start(t *testing.T, cmd *exec.Cmd, name string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s:\n%s", name, text)
		}
		_ = log.Close()
	})
}

func (d *deployment) ask(text string) string {
	d.t.Helper()
	response, err := d.client.Post(d.t.Context(), api.PathMessages, client.Turn("sk-ant-oat01-ada", text), "")
	require.NoError(d.t, err)
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	require.NoError(d.t, err)
	require.Equal(d.t, http.StatusOK, response.StatusCode, string(all))
	return string(all)
}

// testTools runs what an image without its packages would lack, and lets the CLI's own shell run.
func testTools(t *testing.T, d *deployment) {
	for command, says := range map[string]string{"git --version": "git version", "rg --version": "ripgrep",
		"ps -o comm= -p 1": "poold"} {
		require.Contains(t, d.inside(command), says)
	}
	require.Contains(t, d.ask(`[[tool=Bash {"command":"echo from the shell","description":"greet"}]]`),
		"tool said: from the shell")
}

// inside runs a command beside poold, as somebody who looks into a container does.
func (d *deployment) inside(command string) string {
	d.t.Helper()
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(d.pool.Process.Pid), "--pid", "--mount", "--root", "--", "sh",
		"-c", command)
	out, err := cmd.CombinedOutput()
	require.NoError(d.t, err, string(out))
	return string(out)
}

// testRights: a container's root has capabilities that poold doesn't use, and what it starts has none at all.
func testRights(t *testing.T, d *deployment) {
	// chown, dac_override, fowner, kill, setgid, setuid, setpcap, sys_ptrace, sys_admin, sys_nice, sys_resource,
	// checkpoint_restore
	const used = 0x10001a801eb
	statuses, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(d.pool.Process.Pid), "root/proc/[0-9]*/status"))
	require.NoError(t, err)
	seen := map[string]int{}
	for _, path := range statuses {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		status := map[string]string{}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			status[name] = strings.TrimSpace(value)
		}
		name := status["Name"]
		seen[name]++
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			capabilities, err := strconv.ParseUint(status[set], 16, 64)
			require.NoError(t, err)
			if name == "poold" {
				require.Zero(t, capabilities&^used, "%s: %s %x", name, set, capabilities)
			} else {
				require.Zero(t, capabilities, "%s: %s", name, set)
			}
		}
		require.True(t, name == "poold" || status["NoNewPrivs"] == "1", name)
	}
	require.Equal(t, 1, seen["poold"])
	require.NotZero(t, seen["claude"])
}

// testOrphans: a first process is the parent of whatever has lost its own, and has to reap it.
func testOrphans(t *testing.T, d *deployment) {
	for range 5 {
		d.inside("setsid sleep 0.1 &")
	}
	require.Eventually(t, func() bool {
		_, ok := d.names()["sleep"]
		return !ok
	}, 10*time.Second, 50*time.Millisecond, "a zombie is left")
}

// names counts the processes beside poold by name, zombies as well.
func (d *deployment) names() map[string]int {
	d.t.Helper()
	proc, err := procfs.NewFS(filepath.Join("/proc", strconv.Itoa(d.pool.Process.Pid), "root/proc"))
	require.NoError(d.t, err)
	all, err := proc.AllProcs()
	require.NoError(d.t, err)
	names := map[string]int{}
	for _, p := range all {
		if name, err := p.Comm(); err == nil && p.PID != 1 {
			names[name]++
		}
	}
	return names
}

func testEnd(t *testing.T, d *deployment) {
	require.NotZero(t, d.names()["claude"])
	for name, cmd := range map[string]*exec.Cmd{"poold": d.pool, "front": d.front} {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait(), name)
	}
	left, err := filepath.Glob(filepath.Join(d.poolRoot, "workspaces/instance-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
