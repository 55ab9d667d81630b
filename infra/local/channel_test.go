package main

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/pooltest"
)

// reading is a stream of a channel, as far as it was read.
type reading struct {
	mu      sync.Mutex // guards the following
	numbers []int64
	results []string // texts, of failures their errors
	gaps    int      // times it was told that events are missing
	ended   bool
}

func (r *reading) read(lines *bufio.Scanner) {
	for lines.Scan() {
		r.note(lines.Text())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

func (r *reading) note(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number, ok := strings.CutPrefix(line, "id: "); ok {
		n, _ := strconv.ParseInt(number, 10, 64)
		r.numbers = append(r.numbers, n)
	}
	if line == "event: catch_up_truncated" {
		r.gaps++
	}
	data, _ := strings.CutPrefix(line, "data: ")
	if payload := gjson.Get(data, "payload"); payload.Get("type").Str == "result" {
		r.results = append(r.results, payload.Get("result").Str+payload.Get("errors.0").Str)
	}
}

func (r *reading) has(result string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, text := range r.results {
		if strings.Contains(text, result) {
			return true
		}
	}
	return false
}

// A reader needs to know nothing of instances: its one stream has all that is said, whoever serves the user.
func TestChannel_OneStreamOutlivesItsOwners(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	d := prepare(t, cli)
	d.bin = programs(t)
	d.front()
	d.instance()
	d.instance()
	d.placeable(2)
	const user = "reader"
	token := credentials(user)["access_token"]
	path := d.fronts[0] + "/v1/conversations/" + uuid.NewString()
	do := func(method, url, body string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		t.Cleanup(func() { _ = response.Body.Close() })
		return response
	}
	say := func(text string) {
		response := do(http.MethodPost, path+"/send", fmt.Sprintf(
			`{"events":[{"payload":{"type":"user","message":{"role":"user","content":%q}}}]}`, text))
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	stream := do(http.MethodGet, path+"/stream", "")
	require.Equal(t, http.StatusOK, stream.StatusCode)
	r := &reading{}
	lines := bufio.NewScanner(stream.Body)
	lines.Buffer(nil, 1<<20)
	go r.read(lines)
	tells := func(result string) {
		require.Eventually(t, func() bool { return r.has(result) }, patience, 20*time.Millisecond, "%s: %v", result, r)
	}

	say("first")
	tells("reply to: first")
	say("second [[latency=2s]]")
	calls := func(text string) (n int) {
		for _, c := range d.api.Calls() {
			if said := c.Messages(); strings.HasPrefix(said[len(said)-1], "user: "+text) {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return calls("second") == 1 }, patience, 20*time.Millisecond)
	owner := d.owner(user)
	d.instances[owner].Signal(syscall.SIGTERM)
	tells("reply to: second")
	require.Eventually(t, func() bool { return d.owner(user) != owner && d.owner(user) != "" }, patience,
		20*time.Millisecond, "the reader is the next owner's")
	say("third")
	tells("reply to: third")
	require.Equal(t, 1, calls("second"))

	next := d.owner(user)
	require.NotEqual(t, owner, next)
	d.instance()
	d.placeable(2)
	time.Sleep(3 * time.Second) // a stream that breaks as soon as it was taken up is its client's to take up again
	d.instances[next].Signal(syscall.SIGKILL)
	require.Eventually(t, func() bool { return d.owner(user) != next && d.owner(user) != "" }, patience,
		20*time.Millisecond)
	say("fourth")
	tells("reply to: fourth")

	r.mu.Lock()
	defer r.mu.Unlock()
	require.False(t, r.ended)
	require.Equal(t, 2, r.gaps, "each new owner says that it doesn't know what was before")
	for i := range r.numbers[1:] {
		require.Less(t, r.numbers[i], r.numbers[i+1])
	}
}
