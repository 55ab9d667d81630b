package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/archive"
	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/client"
	"claudepool/infra/testkit/emulator"
	"claudepool/infra/testkit/need"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
	"claudepool/pool/seal"
	"claudepool/router"
)

// patience is how long a busy machine may take for what others do at once.
const patience = time.Minute

// deployment is two fronts and three instances as processes of their own, on a real Redis and the Firestore emulator.
type deployment struct {
	t              *testing.T
	bin            string
	folder         string // of workspaces and logs
	database       string // address of Firestore
	project        string // there
	api            *pooltest.API
	redis          *redis.Client
	redisAddr      string
	env            []string
	http           *http.Client // that fronts are asked with
	fronts         []string
	frontProcesses []*testkit.Process
	instances      map[string]*testkit.Process // by id
	processes      []*testkit.Process          // all, also those that have ended

	redisServer, firestore *testkit.Process
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Addr()
	require.NoError(t, err)
	return addr
}

// untilTheEnd has a process that was just started end with the test, if it doesn't before.
func (d *deployment) untilTheEnd(p *testkit.Process, err error) *testkit.Process {
	d.t.Helper()
	require.NoError(d.t, err)
	d.processes = append(d.processes, p)
	d.t.Cleanup(func() {
		_ = p.Terminate(patience)
		p.Kill()
		if d.t.Failed() {
			d.t.Log(p.Log())
		}
	})
	return p
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

// programs returns where front and poold of these sources are.
func programs(t *testing.T) string {
	t.Helper()
	bin, err := pooltest.Build(pooltest.Front, pooltest.Poold)
	require.NoError(t, err)
	return bin
}

// build makes front and poold of other sources, or with other flags, under a name, and returns where they are.
func build(t *testing.T, name, sources string, flags ...string) string {
	t.Helper()
	bin, err := pooltest.BuildApart(name, sources, append(flags, pooltest.Front, pooltest.Poold)...)
	require.NoError(t, err)
	return bin
}

// prepare is a deployment without fronts and instances yet, on a Redis of its own and a database among others.
func prepare(t *testing.T, cli string) *deployment {
	t.Helper()
	need.Program(t, "redis-server")
	d := &deployment{t: t, folder: testkit.Folder(t), redisAddr: freeAddr(t), instances: make(map[string]*testkit.Process),
		http:     http.DefaultClient,
		database: emulator.Addr(t), project: "test-" + strings.ToLower(rand.Text())}
	var err error
	d.api, err = pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(d.api.Close)
	d.startRedis()
	d.redis, err = router.NewClient("redis://"+d.redisAddr, "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.redis.Close() })
	require.Eventually(t, func() bool { return router.EndSettling(t.Context(), d.redis) == nil }, patience,
		20*time.Millisecond)

	isolation := "best-effort"
	if os.Geteuid() == 0 {
		isolation = "require"
	}
	d.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.folder, "REDIS_URL=redis://" + d.redisAddr,
		"FIRESTORE_EMULATOR_HOST=" + d.database, "FIRESTORE_PROJECT=" + d.project, "HOP_KEYS=" + strings.Repeat("k", 32),
		"CLAUDE_BIN=" + cli, "ANTHROPIC_BASE_URL=" + d.api.URL(), "QUEUE_LIMIT=300", "STANDBY=1", "DRAIN_TIMEOUT=30s",
		"IDLE_TIMEOUT=1h", "SPAWN_TIMEOUT=1m", "WORKSPACES_ROOT=" + filepath.Join(d.folder, "workspaces"), "LOG_FORMAT=text",
		"ISOLATION=" + isolation}
	return d
}

// startRedis starts the deployment's Redis where it is, or was.
func (d *deployment) startRedis() {
	d.t.Helper()
	d.redisServer = d.untilTheEnd(testkit.StartRedis(d.folder, d.redisAddr))
}

// ownDatabase gives the deployment an emulator that may be stopped.
func (d *deployment) ownDatabase() {
	d.t.Helper()
	d.database = freeAddr(d.t)
	d.startFirestore()
	d.env = append(d.env, "FIRESTORE_EMULATOR_HOST="+d.database)
}

// startFirestore starts that emulator where it is, or was.
func (d *deployment) startFirestore() {
	d.t.Helper()
	d.firestore = d.untilTheEnd(emulator.Start(d.t.Context(), d.folder, d.database))
}

// start starts one of the programs.
func (d *deployment) start(program string, env ...string) *testkit.Process {
	d.t.Helper()
	env = append(d.env[:len(d.env):len(d.env)], env...)
	return d.untilTheEnd(testkit.Start(d.folder, env, filepath.Join(d.bin, program)))
}

// front starts a front.
func (d *deployment) front() {
	d.t.Helper()
	addr := freeAddr(d.t)
	_, port, _ := net.SplitHostPort(addr)
	d.frontProcesses = append(d.frontProcesses, d.start("front", "PORT="+port))
	d.fronts = append(d.fronts, "http://"+addr)
	c := d.client(len(d.fronts) - 1)
	require.Eventually(d.t, func() bool { return c.Healthy(d.t.Context()) }, patience, 20*time.Millisecond)
}

// client is one of a front.
func (d *deployment) client(front int) *client.Client {
	return &client.Client{URL: d.fronts[front], HTTP: d.http}
}

// instance starts a pool instance and returns its id.
func (d *deployment) instance() (id string) {
	d.t.Helper()
	addr := freeAddr(d.t)
	_, port, _ := net.SplitHostPort(addr)
	process := d.start("poold", "PORT="+port, "ADVERTISE_ADDR="+addr)
	require.Eventually(d.t, func() bool {
		for _, key := range d.redis.Keys(d.t.Context(), "{claudepool}:instance:*").Val() {
			if d.redis.HGet(d.t.Context(), key, "addr").Val() == addr {
				id = strings.TrimPrefix(key, "{claudepool}:instance:")
				d.instances[id] = process
				return true
			}
		}
		return false
	}, patience, 20*time.Millisecond)
	return id
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
	request := client.Turn("", text)
	request["oauth_credentials"] = credentials
	response, err := d.client(front).Post(d.t.Context(), path, request, "")
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

// said counts how often text is in all logs so far.
func (d *deployment) said(text string) (n int) {
	for _, p := range d.processes {
		n += strings.Count(p.Log(), text)
	}
	return n
}

// tellers counts the processes whose logs so far contain text.
func (d *deployment) tellers(text string) (n int) {
	for _, p := range d.processes {
		if strings.Contains(p.Log(), text) {
			n++
		}
	}
	return n
}

// awaitKept waits until the archive has a conversation of the user's with text in it.
func (d *deployment) awaitKept(user, text string) {
	d.t.Helper()
	firestore, err := emulator.Connect(d.t.Context(), d.database, d.project)
	require.NoError(d.t, err)
	defer firestore.Close()
	store := archive.NewFirestore(firestore, time.Hour)
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
