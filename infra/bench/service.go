package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/client"
	"claudepool/router"
)

// readyIn bounds the waiting for anything that has to be up.
const readyIn = 60 * time.Second

// service is front, hop and pool as one process: infra/local with one instance.
type service struct {
	client.Client
	cmd   *exec.Cmd
	users int // so far
}

// startService starts the working tree's service.
func (l *lab) startService(ctx context.Context, bin string, standby int, settings ...string) (*service, error) {
	return l.serve(ctx, l.local, bin, standby, settings...)
}

// serve starts the service that the program at local is. It keeps standby processes ready and runs the CLI at bin, with
// settings in the form of an environment.
func (l *lab) serve(ctx context.Context, local, bin string, standby int, settings ...string) (*service, error) {
	redisURL, err := l.freshDatabase(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := openFolder(l.scratch, "service-")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(local, "-addr", "127.0.0.1:0", "-instances", "1", "-pprof")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "CLAUDE_BIN=" + bin,
		"ANTHROPIC_BASE_URL=" + l.api.URL(),
		"STANDBY=" + strconv.Itoa(standby), "MAX_PROCESSES=400", "LOG_LEVEL=warn"}
	if redisURL != "" {
		cmd.Env = append(cmd.Env, "REDIS_URL="+redisURL)
	}
	cmd.Env = append(cmd.Env, settings...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &service{cmd: cmd}
	s.HTTP = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		s.stop()
		return nil, errors.Join(errors.New("the service did not come up"), err)
	}
	s.URL = url
	if err := s.awaitStandbys(ctx, standby); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *service) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
	s.HTTP.CloseIdleConnections()
}

// standbys is how many processes are ready for new users, as the service's own stats tell within two seconds.
func (s *service) standbys(ctx context.Context) (int, error) {
	stats, err := s.Stats(ctx)
	if err != nil || len(stats.Instances) == 0 {
		return 0, err
	}
	return stats.Instances[0].Standby, nil
}

func (s *service) awaitStandbys(ctx context.Context, n int) error {
	return await(ctx, fmt.Sprintf("%d standbys", n), func() (bool, error) {
		have, err := s.standbys(ctx)
		return have >= n, err
	})
}

// await asks until it is so.
func await(ctx context.Context, what string, isSo func() (bool, error)) error {
	return testkit.Await(ctx, what, readyIn, isSo)
}

// user is a client of the service with a token of its own.
type user struct {
	service *service
	token   string
}

func (s *service) newUser() *user {
	s.users++
	return &user{s, fmt.Sprintf("sk-ant-oat01-bench-%d", s.users)}
}

func (u *user) close() {}

func (u *user) ask(ctx context.Context, text string) (sample, error) {
	a, err := u.service.Ask(ctx, u.token, text)
	return sample{first: a.FirstToken, total: a.Total, process: a.Process, pid: a.PID, text: a.Text}, err
}

// freshDatabase returns the URL of an empty database of the run's redis-server, or "" where there is none: then the
// service embeds a Redis of its own.
func (l *lab) freshDatabase(ctx context.Context) (string, error) {
	if l.redis == "" {
		return "", nil
	}
	url := fmt.Sprintf("redis://%s/%d", l.redis, l.databases%16)
	l.databases++
	redis, err := router.NewClient(url, "")
	if err != nil {
		return "", err
	}
	defer redis.Close()
	return url, await(ctx, "redis-server", func() (bool, error) {
		if err := redis.FlushDB(ctx).Err(); err != nil {
			return false, err
		}
		return true, router.EndSettling(ctx, redis)
	})
}

// startRedis starts a redis-server where there is one.
func (l *lab) startRedis() (stop func(), err error) {
	addr, err := freeport.Addr()
	if err != nil {
		return nil, err
	}
	server, err := testkit.StartRedis(l.scratch, addr)
	if errors.Is(err, exec.ErrNotFound) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	l.redis = addr
	return server.Kill, nil
}

// quote is a text as JSON.
func quote(text string) []byte {
	b, _ := json.Marshal(text) // a string can't fail
	return b
}
