package pagetest_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
	"claudepool/infra/testkit/need"
	"claudepool/pool/pooltest"
)

// browserSDK is Anthropic's Agent SDK for browsers, as it is published.
const browserSDK = "../../.tools/sdktest/node_modules/@anthropic-ai/claude-agent-sdk/browser-sdk.js"

// newSite serves somebody's own page, which drives conversations with the SDK and nothing else, and returns its origin.
func newSite(t *testing.T) string {
	t.Helper()
	_, err := os.Stat(browserSDK)
	need.Part(t, browserSDK, err)
	mux := http.NewServeMux()
	for path, file := range map[string]string{"GET /{$}": "testdata/sdk.html", "GET /browser-sdk.js": browserSDK} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	}
	site := httptest.NewServer(mux)
	t.Cleanup(site.Close)
	return site.URL
}

func TestSDK_TalksFromAPageOfAnotherOrigin(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.RealCLI()
	need.Part(t, cli, err)
	site := newSite(t)
	service := startService(t, cli, "ISOLATION=off", "PERMISSION_MODE=default", "ALLOWED_ORIGINS="+site)
	line, err := testkit.NewRelay(service)
	require.NoError(t, err)
	t.Cleanup(line.Close)
	browser := newBrowser(t)
	visit := func(header, credential string) *tab {
		about := url.Values{"service": {"http://" + line.Addr()}, "header": {header}, "credential": {credential}}
		b := open(t, browser, desktop, site+"/#"+about.Encode())
		b.awaits("globalThis.say !== undefined")
		return b
	}

	b := visit("Authorization", "Bearer "+talker)
	b.do(chromedp.Evaluate[chromedp.Void](`say("hello")`))
	b.shows("#said", "reply to: hello")
	b.do(chromedp.Evaluate[chromedp.Void](`say('[[tool=Bash {"command":"mkdir made && echo it is made"}]]')`))
	b.shows("#asks", "Allow Bash")
	b.press("#asks button")
	b.shows("#said li:nth-child(2)", "tool said: it is made")

	b.do(chromedp.Evaluate[chromedp.Void](`globalThis.streams = false; say("[[words=30]] [[delay=100ms]] on and on")`))
	b.awaits("streams")
	line.Reset(false)
	b.shows("#said li:nth-child(3)", "w29")
	b.shows("#drops", "{}")
	require.Equal(t, evaluate[[]string](b, "kept()"), evaluate[[]string](b, "ids"), "every event once, and in order")
	b.requireNoComplaints()

	other := visit("x-api-key", "sk-ant-api03-who-talks")
	other.do(chromedp.Evaluate[chromedp.Void](`say("hello")`))
	other.shows("#said", "reply to: hello")
	other.requireNoComplaints()
}

// awaits waits until something is so.
func (b *tab) awaits(script string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return evaluate[bool](b, script) }, patience, 20*time.Millisecond, script)
}
