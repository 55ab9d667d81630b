package function

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
	"claudepool/infra/settings"
	"claudepool/pool/api"
	"claudepool/router"
)

// commands counts what a client sends to Redis.
type commands struct{ n atomic.Int64 }

func (c *commands) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *commands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}

func (c *commands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.n.Add(int64(len(cmds)))
		return next(ctx, cmds)
	}
}

func newRedisClient(t *testing.T, addr string) (*redis.Client, *commands) {
	t.Helper()
	client, err := router.NewClient("redis://"+addr, "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	counted := &commands{}
	client.AddHook(counted)
	return client, counted
}

// patientLimits are limits for which every request waits for its count, and which count each once: on a busy machine
// Redis takes its time.
func patientLimits(t *testing.T, addr string, users, addrs settings.Rate) *Limits {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		PoolTimeout: time.Minute, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	limits := NewLimits(client, users, addrs)
	limits.timeout = time.Minute
	return limits
}

// questionOf is a request of that user.
func questionOf(user string) string { return strings.Replace(question, "secret", user, 1) }

func TestLimits_HoldAcrossFrontsAndCostOthersNothing(t *testing.T) {
	server := miniredis.RunT(t)
	served := map[string]int{}
	var mu sync.Mutex
	var urls []string
	for range 2 {
		f, url, _ := newFront(t, events(api.Done))
		f.opts.Limits = patientLimits(t, server.Addr(), settings.Rate{Requests: 10, Per: time.Hour}, settings.Rate{})
		urls = append(urls, url)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			response, body := do(t, http.MethodPost, urls[i%2]+"/v1/messages/pooled", questionOf("greedy"))
			mu.Lock()
			defer mu.Unlock()
			served[strconv.Itoa(response.StatusCode)]++
			if response.StatusCode == http.StatusOK {
				return
			}
			wait, err := strconv.Atoi(response.Header.Get("Retry-After"))
			if err != nil || wait < 1 || wait > 360 || !strings.Contains(body, `"type":"rate_limit_error"`) {
				t.Error("wrong refusal", response.Header, body)
			}
		})
	}
	wg.Wait()
	require.Equal(t, map[string]int{"200": 10, "429": 30}, served)
	for i := range 4 {
		response, _ := do(t, http.MethodPost, urls[i%2]+"/v1/messages/pooled", questionOf("modest"))
		require.Equal(t, 200, response.StatusCode)
		require.Equal(t, "10", response.Header.Get("anthropic-ratelimit-requests-limit"))
		require.Equal(t, fmt.Sprint(9-i), response.Header.Get("anthropic-ratelimit-requests-remaining"))
		reset, err := time.Parse(time.RFC3339, response.Header.Get("anthropic-ratelimit-requests-reset"))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(time.Duration(i+1)*6*time.Minute), reset, time.Minute)
	}
}

func TestLimits_OfAnAddressCountBeforeTheBodyIsRead(t *testing.T) {
	server := miniredis.RunT(t)
	f, url, _ := newFront(t, events(api.Done))
	f.opts.Limits = patientLimits(t, server.Addr(), settings.Rate{}, settings.Rate{Requests: 2, Per: time.Hour})
	f.opts.TrustedProxies = 1
	ask := func(body, forwarded string) int {
		response, _ := do(t, http.MethodPost, url+"/v1/messages/pooled", body, "X-Forwarded-For", forwarded)
		return response.StatusCode
	}
	require.Equal(t, 400, ask("no JSON", "203.0.113.9"))
	require.Equal(t, 200, ask(questionOf("ada"), "1.2.3.4, 203.0.113.9"))
	require.Equal(t, 429, ask(questionOf("bob"), "5.6.7.8, 203.0.113.9"),
		"another user and another story about the way here")
	require.Equal(t, 200, ask(questionOf("bob"), "203.0.113.10"))
	f.opts.APIKeys = apiKeysOf(t, "key")
	require.Equal(t, 401, ask(question, "203.0.113.11"))
	require.False(t, server.Exists("rate:claudepool:addr:203.0.113.11"), "strangers cost Redis nothing")
}

func TestLimits_ASiteThatHasManyAddressesDoesntPassThem(t *testing.T) {
	server := miniredis.RunT(t)
	f, url, _ := newFront(t, events(api.Done))
	f.opts.Limits = patientLimits(t, server.Addr(), settings.Rate{}, settings.Rate{Requests: 2, Per: time.Hour})
	f.opts.TrustedProxies = 1
	served := 0
	for i := range 60 {
		response, _ := do(t, http.MethodPost, url+"/v1/messages/pooled", question, "X-Forwarded-For",
			fmt.Sprintf("2001:db8:1:%x::1", i))
		if response.StatusCode == http.StatusOK {
			served++
		}
	}
	require.Equal(t, 2*siteShare, served)
	response, _ := do(t, http.MethodPost, url+"/v1/messages/pooled", question, "X-Forwarded-For", "2001:db8:2::1")
	require.Equal(t, http.StatusOK, response.StatusCode, "another site's")
}

func TestLimits_WhileRedisIsAwayNobodyIsLimitedAndNobodyWaits(t *testing.T) {
	addr, err := freeport.Addr() // which nobody else gets while it is away
	require.NoError(t, err)
	server := miniredis.NewMiniRedis()
	require.NoError(t, server.StartAddr(addr))
	defer server.Close()
	f, url, _ := newFront(t, events(api.Done))
	f.opts.Limits = patientLimits(t, addr, settings.Rate{Requests: 1, Per: time.Hour}, settings.Rate{})
	status := func() int { code, _, _ := post(t, url, question); return code }
	require.Equal(t, 200, status())
	require.Equal(t, 429, status())
	server.Close()
	for range 20 {
		require.Equal(t, 200, status())
	}
	require.NoError(t, server.Restart())
	require.Eventually(t, func() bool { return status() == 429 }, 30*time.Second, 50*time.Millisecond, "it counts again")
}

// A Redis that takes requests and says nothing is asked by one request a second.
func TestLimits_ASilentRedisHoldsUpOneRequestAtATime(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	f, url, _ := newFront(t, events(api.Done))
	client, counted := newRedisClient(t, silent.Addr().String())
	f.opts.Limits = NewLimits(client, settings.Rate{Requests: 1, Per: time.Hour}, settings.Rate{})
	begun := time.Now()
	for range 20 {
		status, _, _ := post(t, url, question)
		require.Equal(t, 200, status)
	}
	took := time.Since(begun)
	require.LessOrEqual(t, counted.n.Load(), 2+int64(took/limitPause), "in %s", took)
}

func TestFront_AKnownUsersRequestAsksRedisNothingWithoutLimits(t *testing.T) {
	server := miniredis.RunT(t)
	f, url, instances := newFront(t, events(api.Done))
	client, counted := newRedisClient(t, server.Addr())
	require.NoError(t, router.EndSettling(t.Context(), client))
	owner := instances.owners[0]
	ctx, cancel := context.WithCancel(t.Context())
	lease := router.NewLease(client, router.LeaseOptions{Logger: f.opts.Logger, Addr: owner.Addr,
		Fingerprint: owner.Fingerprint,
		Capacity:    8, Load: func() (int, int) { return 0, 0 }, Evict: func(string) {}})
	ended := make(chan struct{})
	go func() { lease.Run(ctx); close(ended) }()
	f.opts.Router = router.New(client, router.Options{Logger: f.opts.Logger, Reach: f.opts.Client.Reach})
	f.opts.Limits = NewLimits(client, settings.Rate{}, settings.Rate{})
	require.Eventually(t, func() bool { status, _, _ := post(t, url, question); return status == 200 }, 30*time.Second,
		10*time.Millisecond)
	cancel()
	<-ended
	before := counted.n.Load()
	require.Positive(t, before)
	for range 20 {
		status, header, _ := post(t, url, question)
		require.Equal(t, 200, status)
		require.Empty(t, header.Get("Anthropic-Ratelimit-Requests-Limit"))
	}
	require.Equal(t, before, counted.n.Load())
}
