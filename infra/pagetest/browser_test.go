package pagetest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

// patience is how long a busy machine may take for what others do at once.
const patience = time.Minute

// newBrowser starts Chromium, which finds nobody but this machine.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(need.Program(t, "chromium-headless-shell")),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"), chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("disable-component-update", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	require.NoError(t, chromedp.Do(ctx))
	return ctx
}

// screen is what the page is looked at with.
type screen struct {
	width, height int64
	scale         float64
	isPhone       bool
	colours       string // light or dark
}

var (
	desktop = screen{width: 1180, height: 1000, scale: 1, colours: "light"}
	phone   = screen{width: 390, height: 844, scale: 2, isPhone: true, colours: "dark"}
)

// tab is one of a person's own: it shares nothing with others. What is asked of it fails the test if it isn't so.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex // guards the following
	complaints []string   // of the browser about the page
}

// open opens an address in a new tab.
func open(t *testing.T, browser context.Context, on screen, url string) *tab {
	t.Helper()
	ctx, end := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(end)
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	require.NoError(t, chromedp.Listen(ctx, b.listen))
	b.look(on)
	b.do(chromedp.Navigate(url))
	return b
}

// listen notes what a developer would see in red: errors, exceptions, and what the page's policy forbids. That an
// address could not be had is said there too, and is no mistake of the page's.
func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Source != log.EntrySourceNetwork {
			b.complaints = append(b.complaints, fmt.Sprintf("%s: %s", e.Entry.Source, e.Entry.Text))
		}
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, fmt.Sprintf("%s at %s:%d", e.ExceptionDetails.Text,
			e.ExceptionDetails.URL, e.ExceptionDetails.LineNumber+1))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			b.complaints = append(b.complaints, fmt.Sprintf("console.%s %s", e.Type, e.Args[0].Value))
		}
	}
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, steps...))
}

// look changes the screen.
func (b *tab) look(on screen) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: on.width, Height: on.height, DeviceScaleFactor: on.scale, Mobile: on.isPhone})
	require.NoError(b.t, err)
	_, err = chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: on.colours},
			{Name: "prefers-reduced-motion", Value: "reduce"}}})
	require.NoError(b.t, err)
}

// text is what a person reads in all elements that are there and seen.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return evaluate[string](b, `[...document.querySelectorAll("`+selector+`")].filter((e) => e.checkVisibility())`+
		`.map((e) => e.innerText).join("\n")`)
}

// evaluate returns what a script comes to, also in its own time.
func evaluate[T any](b *tab, script string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	require.NoError(b.t, err)
	return value
}

// shows waits until an element has a text in it.
func (b *tab) shows(selector, text string) {
	b.t.Helper()
	has := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if has = b.text(selector); strings.Contains(has, text) {
			return
		}
	}
	require.Contains(b.t, has, text, "%s; the page: %s", selector, b.text("body"))
}

// requireFits checks that nothing is wider than the screen.
func (b *tab) requireFits() {
	b.t.Helper()
	wide := evaluate[[]string](b, `[...document.querySelectorAll("body, body *")].filter((e) => e.checkVisibility() && `+
		`e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 100))`)
	require.Empty(b.t, wide)
	require.True(b.t, evaluate[bool](b, "document.documentElement.scrollWidth <= innerWidth"))
}

// requireNoComplaints checks that the browser had nothing to say about the page.
func (b *tab) requireNoComplaints() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.complaints)
}
