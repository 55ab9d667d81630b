// Package pagetest has no code of its own: its tests look at the operators' page and at the one to talk on with a
// real browser, at the local service with real instances and at snapshots that are made up, and have Anthropic's
// Agent SDK run in it on a page of somebody else's.
package pagetest_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"claudepool/infra/snapshot"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/client"
	"claudepool/pool/pooltest"
)

const statsToken = "the-stats-token-of-this-test"

// ready is what the local service prints once it serves.
var ready = regexp.MustCompile(`(?m)^ready http://(\S+)$`)

// newService starts the local service with two instances, and returns its host:port.
func newService(t *testing.T) string {
	t.Helper()
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	return startService(t, cli, "STATS_TOKEN="+statsToken)
}

// startService starts it with a CLI and more settings.
func startService(t *testing.T, cli string, more ...string) string {
	t.Helper()
	bin, err := pooltest.Build(pooltest.Local)
	require.NoError(t, err)
	standIn, err := pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(standIn.Close)
	dir, addr := testkit.Folder(t), ""
	env := append(more, "PATH="+os.Getenv("PATH"), "HOME="+dir, "CLAUDE_BIN="+cli, "ANTHROPIC_BASE_URL="+standIn.URL(),
		"STANDBY=1")
	service, err := testkit.Start(dir, env, filepath.Join(bin, "local"), "-addr", "127.0.0.1:0", "-instances", "2")
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, service.Terminate(patience))
		service.Kill()
	})
	require.NoError(t, service.Await(t.Context(), "the service", patience, func() (bool, error) {
		line := ready.FindStringSubmatch(service.Log())
		if line != nil {
			addr = line[1]
		}
		return line != nil, nil
	}))
	return addr
}

func TestPage_ShowsARealPoolToWhoHasTheToken(t *testing.T) {
	t.Parallel()
	browser := newBrowser(t)
	service := newService(t)
	line, err := testkit.NewRelay(service)
	require.NoError(t, err)
	t.Cleanup(line.Close)
	users := &client.Client{URL: "http://" + service, HTTP: http.DefaultClient}
	b := open(t, browser, desktop, "http://"+line.Addr()+"/pool")

	b.shows("#state", "Token needed")
	require.Empty(t, b.text("#refusal"))
	b.giveToken("not-the-token")
	b.shows("#refusal", "not the stats token")
	require.Empty(t, b.text("#pool"))
	b.giveToken(statsToken)
	b.shows("#state", "Live")
	b.shows("#instances-count", "2")
	require.Len(t, evaluate[[]string](b, `[...document.querySelectorAll(".card .name")].map((e) => e.textContent)`), 2)
	b.shows("#users-about", "Nobody")
	b.shows(".protections", "files")

	b.do(chromedp.Evaluate[chromedp.Void]("void (globalThis.isTheSamePage = true)"))
	ask(t, users, "hello")
	b.shows("#users", "idle")
	b.shows("#served-about", "1 turn since")
	b.shows("#first-token-about", "1 turn in")
	require.Regexp(t, `^\d`, b.text("#p99"))
	user := b.text("#users th")
	require.Regexp(t, `^[0-9a-f]{8}$`, user)
	ask(t, users, "again")
	b.shows("#served-about", "2 turns since")
	require.Equal(t, user, b.text("#users th"))

	line.Reset(true)
	b.shows("#state", "Connection lost")
	ask(t, users, "meanwhile")
	line.Mend()
	b.shows("#state", "Live")
	b.shows("#served-about", "3 turns since")
	require.True(t, evaluate[bool](b, "isTheSamePage"), "all of it without a reload")

	require.NotContains(t, evaluate[string](b, "location.href + document.cookie + JSON.stringify(localStorage)"),
		statsToken)
	b.do(chromedp.Reload())
	b.shows("#state", "Live")
	b.do(chromedp.Click(chromedp.CSS("#forget")))
	b.shows("#state", "Token needed")
	require.Empty(t, b.text("#users")+evaluate[string](b, "document.querySelector('#users').textContent"))
	require.Empty(t, evaluate[string](b, "JSON.stringify({...sessionStorage}).replace('{}', '')"))
	b.requireNoComplaints()
}

// giveToken types the token as a person does who has no mouse: the field has the focus.
func (b *tab) giveToken(token string) {
	b.t.Helper()
	require.Equal(b.t, "token", evaluate[string](b, "document.activeElement.id"))
	b.do(chromedp.KeyEvent(token + "\r"))
}

func ask(t *testing.T, users *client.Client, text string) {
	t.Helper()
	_, err := users.Ask(t.Context(), "sk-ant-oat01-page", text)
	require.NoError(t, err)
}

func TestPage_ExplainsWhatIsNotAsItShouldBe(t *testing.T) {
	t.Parallel()
	snapshots, url := newFront(t)
	b := open(t, newBrowser(t), desktop, url+"/pool") // without a token, as none is needed
	b.shows("#notice", "No instance is alive")
	b.shows("#state", "Live")

	all := example()
	snapshots.put(t, all...)
	b.shows("#instances-count", "3")
	require.Empty(t, b.text("#notice"))
	b.shows(".badge", "Serving\nServing\nDraining")
	b.shows(".protections", "cgroup not in force")
	b.shows("#reading", "Each point is a minute")
	require.True(t, evaluate[bool](b, "document.querySelector('#chart canvas').width > 300"))

	silent := all[0]
	silent.At, silent.ExpiresAt = time.Now().Add(-50*time.Second), time.Now().Add(time.Hour)
	require.NoError(t, snapshots.Put(t.Context(), silent))
	b.shows(".badge", "Silent")
	b.shows(".age", "no snapshot for")

	for _, i := range all {
		i.Draining = true
		snapshots.put(t, i)
	}
	b.shows("#notice", "All instances are draining")

	snapshots.away.Store(true)
	b.shows("#notice", "Firestore hasn't answered since")
	b.shows("#state", "Stale")
	require.Contains(t, b.text("#instances"), "Draining", "what was known is still there")
	snapshots.away.Store(false)
	b.shows("#notice", "All instances are draining")
	b.requireNoComplaints()
}

func TestPage_FitsPhonesAndDesktopsAndIsUsedWithoutAMouse(t *testing.T) {
	t.Parallel()
	snapshots, url := newFront(t)
	all := example()
	all[0].ID = strings.Repeat("long", 16)
	all[1].Protections = map[string]bool{"<img src=x onerror=alert(1)>": true, strings.Repeat("w", 80): false}
	snapshots.put(t, all...)
	b := open(t, newBrowser(t), phone, url+"/pool")
	b.shows(".protections", "<img src=x onerror=alert(1)>") // as text
	for _, on := range []screen{phone, desktop, {width: 320, height: 600, scale: 1, isPhone: true, colours: "light"}} {
		b.look(on)
		b.shows("#users-all", "Show all 51")
		b.do(chromedp.Evaluate[chromedp.Void]("void (document.querySelector('details').open = true)"))
		b.shows("#minutes", "ms")
		b.requireFits()
	}
	ground := func() string { return evaluate[string](b, "getComputedStyle(document.body).backgroundColor") }
	light := ground()
	b.look(phone)
	require.NotEqual(t, light, ground())

	b.do(chromedp.Focus(chromedp.CSS("#users-all")), chromedp.KeyEvent("\r"))
	b.shows("#users-all", "Show fewer")
	require.Equal(t, 51, evaluate[int](b, "document.querySelectorAll('#users tr').length"))
	snapshots.put(t, snapshot.Instance{ID: "a-new-one", Capacity: 1})
	b.shows("#instances-count", "4")
	require.Equal(t, "users-all", evaluate[string](b, "document.activeElement.id"), "the focus stays")
	b.requireFits()
	b.requireNoComplaints()
}
