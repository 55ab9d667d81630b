package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/archive"
	"claudepool/infra/database"
	"claudepool/infra/emulator"
	"claudepool/infra/freeport"
	"claudepool/infra/need"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
	"claudepool/pool/seal"
	"claudepool/router"
)

// patience is how long a busy machine may take for what others do at once.
const patience = time.Minute

// deployment is two fronts and three instances as processes of their own, on a real Redis and the Firestore emulator.
type deployment struct {
	t         *testing.T
	bin       string
	database  string // address of Firestore
	project   string // there
	api       *pooltest.API
	redis     *redis.Client
	env       []string
	fronts    []string
	instances map[string]*exec.Cmd // by id
	logs      []string             // files

	redisServer, firestore func() *exec.Cmd // start them again where they were
	redisNow, firestoreNow *exec.Cmd
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Addr()
	require.NoError(t, err)
	return addr
}

// plainEnv has nothing of this machine's own settings in it.
func plainEnv(t *testing.T) []string {
	t.Helper()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
}

// run starts a process that ends with the test, or before when asked to.
func (d *deployment) run(env []string, name string, args ...string) *exec.Cmd {
	d.t.Helper()
	log, err := os.Create(filepath.Join(d.t.TempDir(), filepath.Base(name)+".log"))
	require.NoError(d.t, err)
	d.logs = append(d.logs, log.Name())
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	require.NoError(d.t, cmd.Start())
	d.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); d.t.Failed() {
			d.t.Logf("%s:\n%s", name, text)
		}
		_ = log.Close()
	})
	return cmd
}

// deploy starts what is deployed.
func (d *deployment) deploy() {
	d.t.Helper()
	d.bin = programs(d.t)
	for range 3 {
		d.instance()
	}
	for range 2 {
		d.front()
	}
	d.placeable(3)
}

// folder returns a temporary folder that children under other uids can get to.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o711)) // made for this uid alone
	return dir
}

// programs returns where front and poold of these sources are.
func programs(t *testing.T) string {
	t.Helper()
	bin, err := pooltest.Build(pooltest.Front, pooltest.Poold)
	require.NoError(t, err)
	return bin
}

// build makes front and poold of other sources, or with other flags, and returns where they are.
func build(t *testing.T, sources string, flags ...string) string {
	t.Helper()
	bin := t.TempDir()
	cmd := pooltest.GoBuild(bin, append(flags, pooltest.Front, pooltest.Poold)...)
	cmd.Dir = sources
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return bin
}

// prepare is a deployment without fronts and instances yet, on a Redis of its own and a database among others.
func prepare(t *testing.T, cli string) *deployment {
	t.Helper()
	redisBin := need.Program(t, "redis-server")
	d := &deployment{t: t, database: emulator.Addr(t), project: "test-" + strings.ToLower(rand.Text()), instances: make(map[string]*exec.Cmd)}
	var err error
	d.api, err = pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(d.api.Close)

	redisAddr := freeAddr(t)
	_, redisPort, _ := net.SplitHostPort(redisAddr)
	plain := plainEnv(t)
	d.redisServer = func() *exec.Cmd {
		return d.run(plain, redisBin, "--port", redisPort, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir())
	}
	d.redisNow = d.redisServer()
	d.redis, err = router.NewClient("redis://"+redisAddr, "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.redis.Close() })
	require.Eventually(t, func() bool { return router.Settle(t.Context(), d.redis) == nil }, patience, 20*time.Millisecond)

	isolation := "best-effort"
	if os.Geteuid() == 0 {
		isolation = "require"
	}
	d.env = append(plain, "REDIS_URL=redis://"+redisAddr, "FIRESTORE_EMULATOR_HOST="+d.database, "FIRESTORE_PROJECT="+d.project,
		"HOP_KEYS="+strings.Repeat("k", 32), "CLAUDE_BIN="+cli, "ANTHROPIC_BASE_URL="+d.api.URL(), "QUEUE_LIMIT=300", "STANDBY=1", "DRAIN_TIMEOUT=30s", "IDLE_TIMEOUT=1h",
		"WORKSPACES_ROOT="+filepath.Join(folder(t), "workspaces"), "LOG_FORMAT=text", "ISOLATION="+isolation)
	return d
}

// ownDatabase gives the deployment an emulator that may be stopped.
func (d *deployment) ownDatabase() {
	d.t.Helper()
	d.database = freeAddr(d.t)
	_, port, _ := net.SplitHostPort(d.database)
	command, err := emulator.Command(port)
	need.Part(d.t, "", err)
	plain := plainEnv(d.t)
	d.firestore = func() *exec.Cmd { return d.run(plain, command[0], command[1:]...) }
	d.firestoreNow = d.firestore()
	require.NoError(d.t, emulator.Ready(d.t.Context(), d.database))
	d.env = append(d.env, "FIRESTORE_EMULATOR_HOST="+d.database)
}

// front starts a front.
func (d *deployment) front() {
	d.t.Helper()
	addr := freeAddr(d.t)
	_, port, _ := net.SplitHostPort(addr)
	d.run(append(d.env[:len(d.env):len(d.env)], "PORT="+port), d.bin+"/front")
	url := "http://" + addr
	require.Eventually(d.t, func() bool { return reachable(url + "/health") }, patience, 20*time.Millisecond)
	d.fronts = append(d.fronts, url)
}

// instance starts a pool instance and returns its id.
func (d *deployment) instance() (id string) {
	d.t.Helper()
	addr := freeAddr(d.t)
	_, port, _ := net.SplitHostPort(addr)
	cmd := d.run(append(d.env[:len(d.env):len(d.env)], "PORT="+port, "ADVERTISE_ADDR="+addr), d.bin+"/poold")
	require.Eventually(d.t, func() bool {
		for _, key := range d.redis.Keys(d.t.Context(), "{claudepool}:instance:*").Val() {
			if d.redis.HGet(d.t.Context(), key, "addr").Val() == addr {
				id = strings.TrimPrefix(key, "{claudepool}:instance:")
				d.instances[id] = cmd
				return true
			}
		}
		return false
	}, patience, 20*time.Millisecond)
	return id
}

func reachable(url string) bool {
	response, err := http.Get(url)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

type got struct {
	status        int
	pid, instance string
	body          string
}

func (d *deployment) ask(front int, user, text string) got {
	return d.post(front, api.PathMessages, credentials(user), text)
}

func credentials(user string) map[string]string {
	return map[string]string{"access_token": "sk-ant-oat01-" + user}
}

func (d *deployment) post(front int, path string, credentials map[string]string, text string) got {
	body, _ := json.Marshal(map[string]any{
		"oauth_credentials": credentials, "messages": []map[string]string{{"role": "user", "content": text}}, "model": "haiku",
	})
	response, err := http.Post(d.fronts[front]+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return got{body: err.Error()}
	}
	defer response.Body.Close()
	all, _ := io.ReadAll(response.Body)
	_, receipt, _ := strings.Cut(string(all), ": receipt ") // the headers may have gone before there was a process
	return got{response.StatusCode, gjson.Get(receipt, "pid").Raw, response.Header.Get(api.HeaderInstance), string(all)}
}

// context is what the API was told with the message that says text, the last time.
func (d *deployment) context(text string) []string {
	d.t.Helper()
	said := d.asked(text)
	require.NotEmpty(d.t, said, "the API was never asked %s", text)
	return said
}

// asked is as context, and empty if there was no such message.
func (d *deployment) asked(text string) []string {
	calls := d.api.Calls()
	for i := len(calls) - 1; i >= 0; i-- {
		if said := calls[i].Messages(); len(said) > 0 && said[len(said)-1] == "user: "+text {
			return said
		}
	}
	return nil
}

// requireAnswer checks that g is the answer to text and nothing else.
func requireAnswer(t *testing.T, g got, text string) {
	t.Helper()
	require.Equal(t, http.StatusOK, g.status, g.body)
	require.Equal(t, 1, strings.Count(g.body, `"type":"result"`), g.body)
	require.Contains(t, g.body, `"result":"reply to: `+text+`"`)
	require.True(t, strings.HasSuffix(g.body, api.Done))
}

// askAtOnce sends n first requests of one user through both fronts, and checks that one process answers them all.
func (d *deployment) askAtOnce(n int) {
	d.t.Helper()
	replies := make([]got, n)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() { replies[i] = d.ask(i%2, "ada", fmt.Sprint("question ", i)) })
	}
	wg.Wait()
	for i, g := range replies {
		requireAnswer(d.t, g, fmt.Sprint("question ", i))
		require.Equal(d.t, replies[0].pid, g.pid)
	}
}

// said counts the lines of all logs so far that contain text.
func (d *deployment) said(text string) int {
	n := 0
	for _, path := range d.logs {
		log, err := os.ReadFile(path)
		require.NoError(d.t, err)
		n += strings.Count(string(log), text)
	}
	return n
}

// tellers counts the processes whose logs so far contain text.
func (d *deployment) tellers(text string) int {
	n := 0
	for _, path := range d.logs {
		if log, _ := os.ReadFile(path); bytes.Contains(log, []byte(text)) {
			n++
		}
	}
	return n
}

// awaitKept waits until the archive has a conversation of the user's with text in it.
func (d *deployment) awaitKept(user, text string) {
	d.t.Helper()
	d.t.Setenv(database.EmulatorHost, d.database)
	store, err := archive.NewFirestore(d.t.Context(), d.project, "(default)", time.Hour)
	require.NoError(d.t, err)
	defer store.Close()
	keys := seal.Derive(credentials(user)["access_token"])
	require.Eventually(d.t, func() bool {
		records, _ := store.List(d.t.Context(), keys.Owner())
		for _, r := range records {
			sealed, _ := store.Load(d.t.Context(), keys.Owner(), r.Name, r.Version)
			zipped, _ := keys.Open(sealed, seal.Place{Name: r.Name, Version: r.Version, Part: "body"})
			if reader, err := gzip.NewReader(bytes.NewReader(zipped)); err == nil {
				transcript, _ := io.ReadAll(reader)
				return bytes.Contains(transcript, []byte(text))
			}
		}
		return false
	}, patience, 100*time.Millisecond)
}

// owner is the instance that Redis says owns the user, or "".
func (d *deployment) owner(user string) string {
	req := api.Request{OAuth: &api.OAuthCredentials{AccessToken: credentials(user)["access_token"]}}
	id, _, _ := strings.Cut(d.redis.Get(context.Background(), "{claudepool}:owner:"+req.UserID()).Val(), " ")
	return id
}
