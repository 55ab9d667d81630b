package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

// keyedTurns is how many there are; KEYED says another number.
func keyedTurns() int {
	if n, err := strconv.Atoi(os.Getenv("KEYED")); err == nil {
		return n
	}
	return 30
}

// outcome is how a keyed request ended for one who sent it.
type outcome struct {
	status   int // 0: none in the time there is
	result   string
	failed   bool // the stream ended with an error
	instance string
	sent     int // times
}

func (o outcome) String() string {
	if o.failed {
		return "failed"
	}
	return fmt.Sprint(o.status)
}

func (o outcome) isAnswered() bool { return o.status == http.StatusOK && !o.failed }

// keyedTurn is one turn that is asked for twice, and once more at the end.
type keyedTurn struct {
	user, text string
	outcomes   [3]outcome
	asked      time.Time // when both had their answers
}

func TestKeyed_NoTurnRunsTwiceHoweverFrontsAndOwnersGo(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	d := prepare(t, cli)
	d.env = append(d.env, "DRAIN_TIMEOUT=2s")
	d.bin = programs(t)
	for range 2 {
		d.instance()
		d.front()
	}
	d.placeable(2)
	turns := make([]*keyedTurn, keyedTurns())
	parallel := min(12, len(turns)/6) // users, each with one key after the other
	for i := range turns {
		latency := 10 + rand.N(600)
		if i%10 == 9 {
			latency = 3000 // which a drain doesn't wait for
		}
		turns[i] = &keyedTurn{user: fmt.Sprint("user", i%parallel),
			text: fmt.Sprintf("turn %d [[latency=%dms]]", i, latency)}
	}
	asking, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	var users sync.WaitGroup
	for user := range parallel {
		users.Go(func() {
			for i := user; i < len(turns); i += parallel {
				d.askTwice(asking, turns[i])
			}
		})
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		users.Wait()
	}()
	killed, drained := d.disturb(parallel, asked)
	drained += d.drainOwner("user0")
	for _, turn := range turns { // nothing runs any more: all that there is comes from what was kept
		if time.Since(turn.asked) < 8*time.Minute { // else its key is about to be forgotten
			turn.outcomes[2] = d.askKeyed(asking, turn)
		}
	}
	d.requireOnce(turns)
	require.NotZero(t, killed)
	require.NotZero(t, drained)
	t.Logf("%d fronts were killed and %d owners drained", killed, drained)
}

// disturb kills fronts and drains owners, whichever and whenever, until there is nobody to disturb.
func (d *deployment) disturb(users int, until <-chan struct{}) (killed, drained int) {
	for {
		select {
		case <-until:
			return killed, drained
		case <-time.After(rand.N(1500 * time.Millisecond)):
		}
		if killed <= drained {
			d.replaceFront(rand.N(len(d.fronts)))
			killed++
			continue
		}
		drained += d.drainOwner(fmt.Sprint("user", rand.N(users)))
	}
}

// drainOwner has the user's owner end, after another instance has come, and returns how many there were.
func (d *deployment) drainOwner(user string) int {
	d.t.Helper()
	owner := d.owner(user)
	if d.instances[owner] == nil {
		return 0
	}
	d.instance()
	d.instances[owner].Signal(syscall.SIGTERM)
	delete(d.instances, owner)
	return 1
}

// replaceFront kills a front and starts another in its place.
func (d *deployment) replaceFront(i int) {
	d.t.Helper()
	at, err := url.Parse(d.fronts[i])
	require.NoError(d.t, err)
	d.frontProcesses[i].Kill()
	d.frontProcesses[i] = d.start("front", "PORT="+at.Port())
}

// askTwice sends the same request twice: at the same time, while the turn runs, or afterwards.
func (d *deployment) askTwice(ctx context.Context, turn *keyedTurn) {
	var both sync.WaitGroup
	both.Go(func() { turn.outcomes[0] = d.askKeyed(ctx, turn) })
	time.Sleep(rand.N(800 * time.Millisecond))
	both.Go(func() { turn.outcomes[1] = d.askKeyed(ctx, turn) })
	both.Wait()
	turn.asked = time.Now()
}

// askKeyed asks at any front until there is an answer that is not to be asked for again.
func (d *deployment) askKeyed(ctx context.Context, turn *keyedTurn) (o outcome) {
	request := client.Turn(credentials(turn.user)["access_token"], turn.text)
	body, _ := json.Marshal(request)
	for sent := 1; ctx.Err() == nil; sent++ {
		if o, ended := d.sendKeyed(ctx, turn.text, body); ended {
			o.sent = sent
			return o
		}
		time.Sleep(50*time.Millisecond + rand.N(200*time.Millisecond))
	}
	return outcome{}
}

// sendKeyed sends once. A connection that breaks is no end.
func (d *deployment) sendKeyed(ctx context.Context, key string, body []byte) (o outcome, ended bool) {
	front := d.fronts[rand.N(len(d.fronts))]
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, front+api.PathMessages, strings.NewReader(string(body)))
	if err != nil {
		return o, true
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(api.HeaderIdempotencyKey, strings.ReplaceAll(key, " ", "-"))
	response, err := d.http.Do(r)
	if err != nil {
		return o, false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return o, false
	}
	o = outcome{status: response.StatusCode, instance: response.Header.Get(api.HeaderInstance)}
	if o.status != http.StatusOK {
		return o, response.Header.Get(api.HeaderShouldRetry) != "true"
	}
	for line := range strings.Lines(string(text)) {
		event, _ := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		switch gjson.Get(event, "type").Str {
		case "result":
			o.result = event
		case "error":
			o.failed = true
		}
	}
	return o, strings.HasSuffix(string(text), api.Done)
}

// requireOnce requires that no turn ran twice, and that all who were answered got the same.
func (d *deployment) requireOnce(turns []*keyedTurn) {
	t := d.t
	runs := make(map[string]int)
	for _, call := range d.api.Calls() {
		said := call.Messages()
		runs[strings.TrimPrefix(said[len(said)-1], "user: ")]++
	}
	tally, when := make(map[string]int), [...]string{"", "", "at the end "}
	for _, turn := range turns {
		require.LessOrEqual(t, runs[turn.text], 1, "%s ran more than once", turn.text)
		var results, instances []string
		for i, o := range turn.outcomes {
			if o.status == 0 {
				require.Equal(t, 2, i, "%s: no answer", turn.text)
				continue
			}
			tally[when[i]+o.String()]++
			tally["sent"] += o.sent
			if o.isAnswered() {
				require.Contains(t, o.result, "reply to: turn ")
				results, instances = append(results, o.result), append(instances, o.instance)
			}
		}
		require.LessOrEqual(t, len(slices.Compact(results)), 1, "%s was answered in two ways", turn.text)
		if len(slices.Compact(slices.Sorted(slices.Values(instances)))) > 1 {
			tally["turns answered by more than one owner"]++
		}
		tally["turns run"] += runs[turn.text]
	}
	t.Log(tally)
	require.Greater(t, tally["200"], len(turns)*2*8/10, "most are answered")
	require.NotZero(t, tally["turns answered by more than one owner"])
}
