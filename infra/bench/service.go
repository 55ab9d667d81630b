package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/infra/freeport"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/router"
)

// readyIn bounds the waiting for anything that has to be up.
const readyIn = 60 * time.Second

// service is front, hop and pool as one process: infra/local with one instance.
type service struct {
	cmd     *exec.Cmd
	url     string
	users   int // so far
	clients *http.Client
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
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "CLAUDE_BIN=" + bin, "ANTHROPIC_BASE_URL=" + l.api.URL(),
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
	s := &service{cmd: cmd, clients: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}}}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		s.stop()
		return nil, errors.Join(errors.New("the service did not come up"), err)
	}
	s.url = url
	if err := s.awaitStandbys(ctx, standby); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *service) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
	s.clients.CloseIdleConnections()
}

// standbys is how many processes are ready for new users, as the service's own stats tell within two seconds.
func (s *service) standbys(ctx context.Context) (int, error) {
	stats, err := s.stats(ctx)
	if err != nil || len(stats.Instances) == 0 {
		return 0, err
	}
	return stats.Instances[0].Standby, nil
}

func (s *service) stats(ctx context.Context) (stats api.Stats, err error) {
	text, err := s.get(ctx, "/v1/pool/stats")
	if err != nil {
		return stats, err
	}
	return stats, json.Unmarshal(text, &stats)
}

func (s *service) awaitStandbys(ctx context.Context, n int) error {
	return await(ctx, fmt.Sprintf("%d standbys", n), func() (bool, error) {
		have, err := s.standbys(ctx)
		return have >= n, err
	})
}

// await asks until it is so.
func await(ctx context.Context, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, readyIn)
	defer cancel()
	for {
		ok, err := so()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *service) get(ctx context.Context, path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.clients.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", path, answer.Status)
	}
	return io.ReadAll(answer.Body)
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

// post sends one message. Its answer has to be closed.
func (u *user) post(ctx context.Context, text string) (*http.Response, error) {
	body := fmt.Sprintf(`{"oauth_credentials":{"access_token":%q},"messages":[{"role":"user","content":%s}],"model":"haiku"}`, u.token, quote(text))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.service.url+"/v1/messages/pooled", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := u.service.clients.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		detail, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		_ = answer.Body.Close()
		return nil, fmt.Errorf("%s: %s", answer.Status, detail)
	}
	return answer, nil
}

func (u *user) ask(ctx context.Context, text string) (sample, error) {
	began := time.Now()
	answer, err := u.post(ctx, text)
	if err != nil {
		return sample{}, err
	}
	defer answer.Body.Close()
	var s sample
	answered := false
	for lines := claude.NewReader(answer.Body); ; {
		line, err := lines.Next()
		switch {
		case err != nil:
			return s, fmt.Errorf("the stream broke: %w", err)
		case s.first == 0 && bytes.Contains(line, textDelta):
			s.first = time.Since(began)
		case bytes.Contains(line, resultLine) && !bytes.Contains(line, failedLine):
			answered, s.text = true, gjson.GetBytes(line, "result").Str
		case bytes.HasPrefix(line, receiptLine): // the headers of a turn that began late know of no process
			receipt := gjson.ParseBytes(line[len(receiptLine):])
			s.process, s.pid = receipt.Get("process").Str, int(receipt.Get("pid").Int())
		case string(line) == strings.TrimSpace(api.Done):
			s.total = time.Since(began)
			if !answered {
				err = errors.New("the turn failed")
			}
			_, _ = io.Copy(io.Discard, answer.Body) // else the connection would not be used again
			return s, err
		}
	}
}

// freshDatabase returns the URL of an empty database of the run's redis-server, or "" where there is none: then the
// service embeds a Redis of its own.
func (l *lab) freshDatabase(ctx context.Context) (string, error) {
	if l.redis == "" {
		return "", nil
	}
	url := fmt.Sprintf("redis://%s/%d", l.redis, l.databases%16)
	l.databases++
	client, err := router.NewClient(url, "")
	if err != nil {
		return "", err
	}
	defer client.Close()
	return url, await(ctx, "redis-server", func() (bool, error) {
		if err := client.FlushDB(ctx).Err(); err != nil {
			return false, err
		}
		return true, router.Settle(ctx, client)
	})
}

// startRedis starts a redis-server where there is one.
func (l *lab) startRedis() (stop func(), err error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return func() {}, nil
	}
	if l.redis, err = freeport.Addr(); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(l.redis)
	cmd := exec.Command(bin, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", l.scratch)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}, nil
}

// quote is a text as JSON.
func quote(text string) []byte {
	b, _ := json.Marshal(text) // a string can't fail
	return b
}
