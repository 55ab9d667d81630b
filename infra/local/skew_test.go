package main

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

// previous is the commit of the release before this one. Whoever makes a release puts the last one's here, and nobody
// else: a change that needs another commit here can't be deployed without an outage. This one is the first whose hop is
// encrypted; none before it was released, and to talk to those in plain text would let anybody ask for plain text.
const previous = "42d1f29dc31fa83cb7754c28989fdf0c0ae3d248"

// A deployment is replaced process by process, so for a while two releases share one Redis and talk to each other. What
// runs here are both releases' own binaries. There are two ways to get another release's, each for what the other
// can't:
//
//   - The one before is built from its commit: it holds whatever really was different, as the scripts it sends to
//     Redis. Clones without history and archives don't have that commit. There this release stands in for it.
//   - Those to come don't exist. They are built from these sources with a later version of the wire linked in, and so
//     show that this release's fronts and instances cope with one. That needs no history.

// releaseBefore builds the release before this one.
func releaseBefore(t *testing.T) string {
	t.Helper()
	sources := t.TempDir()
	unpack := `git archive --format=tar "$1" | tar -x -C "$2" && test -f "$2/go.mod"`
	out, err := exec.Command("sh", "-c", "cd ../.. && "+unpack, "sh", previous, sources).CombinedOutput()
	if err != nil {
		t.Logf("this clone doesn't have %s, so this release stands in for the one before: %s", previous, out)
		return programs(t)
	}
	return build(t, "release-before", sources)
}

// release builds these sources as a release that speaks a version of the wire.
func release(t *testing.T, wire int) string {
	t.Helper()
	return build(t, fmt.Sprint("wire-", wire), ".", "-ldflags", fmt.Sprintf("-s -w -X claudepool/infra/hop.current=%d",
		wire))
}

func TestSkew_ReleasesServeSideBySide(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	before, this, next, third := releaseBefore(t), programs(t), release(t, 2), release(t, 3)
	t.Run("with the one before", func(t *testing.T) { testTogether(t, cli, before, this, 1) })
	t.Run("with the next", func(t *testing.T) { testTogether(t, cli, this, next, 0) })
	t.Run("what the one before doesn't have", func(t *testing.T) { testUnknownCalls(t, cli, before, this) })
	t.Run("too far apart", func(t *testing.T) { testTooFar(t, cli, this, third) })
}

// testUnknownCalls: calls that only this release passes through fail cleanly while there are no instances but of the
// one before.
func testUnknownCalls(t *testing.T, cli, before, this string) {
	d := prepareSkew(t, cli)
	d.bin = before
	d.instance()
	d.bin = this
	d.front()
	d.placeable(1)
	requireAnswer(t, d.ask(0, "ada", "hello"), "hello")
	if before != this {
		for range 20 { // as long as the front looks for instances
			status, header, body := d.call(0, http.MethodGet, api.PathModels, "")
			require.Equal(t, http.StatusServiceUnavailable, status, body)
			require.Equal(t, "1", header.Get("Retry-After"))
			require.Contains(t, body, "no instance can ask the API now")
			time.Sleep(100 * time.Millisecond)
		}
	}
	d.instance()
	d.awaitCalls(0)
	for range 10 {
		status, _, body := d.call(0, http.MethodGet, api.PathModels, "")
		require.Equal(t, http.StatusOK, status, body)
	}
}

// prepareSkew is prepare with answers that aren't held against this release's description: another one has its own.
func prepareSkew(t *testing.T, cli string) *deployment {
	d := prepare(t, cli)
	d.http = &http.Client{Transport: http.DefaultTransport}
	return d
}

// testTogether runs a front and an instance of each of two releases, then takes the old instance away as an update
// does. So many requests may fail by meeting the closing of a connection: the release before doesn't say at its end
// that it has answered all that it had accepted.
func testTogether(t *testing.T, cli, older, newer string, mayFail int) {
	d := prepareSkew(t, cli)
	d.bin = older
	d.front()
	oldOne := d.instance()
	d.bin = newer
	d.front()
	newOne := d.instance()
	d.placeable(2)

	owned := map[string][]string{} // users, by instance
	for i := range 12 {
		user := fmt.Sprint("user", i)
		first := d.ask(i%2, user, "hello")
		requireAnswer(t, first, "hello")
		second := d.ask(1-i%2, user, "again")
		requireAnswer(t, second, "again")
		require.Equal(t, first.pid, second.pid, "both fronts find the same process")
		owned[first.instance] = append(owned[first.instance], user)
	}
	require.NotEmpty(t, owned[oldOne], "both fronts have asked an instance of each release")
	require.NotEmpty(t, owned[newOne])
	for front := range d.fronts {
		eventuallyStats(t, d.client(front), func(s api.Stats) bool {
			return len(s.Instances) == 2 && len(s.ActiveUsers) == 12
		})
	}

	d.instances[oldOne].Signal(syscall.SIGTERM)
	// As long as it ends, either may answer, but no request fails.
	for gone := false; !gone; {
		gone = d.redis.Exists(t.Context(), "{claudepool}:instance:"+oldOne).Val() == 0
		for i, user := range owned[oldOne] {
			g := d.ask(i%2, user, "moved")
			if g.status == http.StatusBadGateway && mayFail > 0 {
				mayFail--
				g = d.ask(i%2, user, "moved")
			}
			requireAnswer(t, g, "moved")
			require.True(t, !gone || g.instance == newOne, "answered by who is gone")
		}
	}
	for i, user := range owned[newOne] {
		requireAnswer(t, d.ask(i%2, user, "stayed"), "stayed")
	}
}

// placeable waits until fronts place users on n instances.
func (d *deployment) placeable(n int) {
	d.t.Helper()
	placed := func() bool { return testkit.Placeable(d.t.Context(), d.redis) == n }
	require.Eventually(d.t, placed, patience, 20*time.Millisecond)
}

// testTooFar: where a release was left out, users are refused, not served wrongly.
func testTooFar(t *testing.T, cli, first, third string) {
	d := prepare(t, cli)
	for _, bin := range []string{first, third} {
		d.bin = bin
		d.front()
	}
	const firstFront, thirdFront = 0, 1
	d.bin = third
	thirdOne := d.instance()
	d.placeable(1)
	d.requireRefused(firstFront, "ada", "hop: version not spoken here: 1, this release takes 2 to 3")
	requireAnswer(t, d.ask(thirdFront, "ada", "hello"), "hello")

	require.NoError(t, d.instances[thirdOne].Terminate(patience))
	d.bin = first
	d.instance()
	d.placeable(1)
	d.requireRefused(thirdFront, "bob", "hop: version not spoken here: 2, this release takes 1 to 1")
	requireAnswer(t, d.ask(firstFront, "bob", "hello"), "hello")
}

func (d *deployment) requireRefused(front int, user, reason string) {
	d.t.Helper()
	calls := len(d.api.Calls())
	var g got
	require.Eventually(d.t, func() bool { // a busy machine's instance may not be reached in time, so ask as clients do
		g = d.ask(front, user, "hello")
		return !strings.Contains(g.body, "this user can't be served now")
	}, patience, time.Second)
	require.Equal(d.t, http.StatusServiceUnavailable, g.status, g.body)
	require.Contains(d.t, g.body, "the service is being updated, try again")
	require.Equal(d.t, 1, d.said(reason), "the operator is told, and trying again at once can't help")
	require.Len(d.t, d.api.Calls(), calls, "nothing was run")
}
