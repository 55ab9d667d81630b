package pagetest_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

var screenshots = flag.String("screenshots", "", "folder to write pictures of the page to; the time in them is UTC")

// mostPicture is how large a picture may be that people load with a document, in bytes.
const mostPicture = 150 << 10

// TestScreenshots writes the pictures that README.md and OPERATIONS.md show.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("only with -screenshots")
	}
	snapshots, url := newFront(t)
	snapshots.put(t, example()...)
	browser, talk := newBrowser(t), newExample(t)
	for name, on := range map[string]screen{"page": desktop, "page-phone": phone} {
		b := open(t, browser, on, url+"/pool")
		b.shows("#state", "Live")
		b.shows("#users-all", "Show all")
		b.photograph(name)
	}
	for name, on := range map[string]screen{"talk": {width: 1180, height: 900, scale: 1, colours: "light"},
		"talk-phone": {width: 390, height: 844, scale: 1.5, isPhone: true, colours: "dark"}} {
		b := open(t, browser, on, talk+"/")
		asks(t, b)
		b.photograph(name)
	}
}

func (b *tab) photograph(name string) {
	b.t.Helper()
	time.Sleep(500 * time.Millisecond) // what moves has come to rest
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(b.t, err)
	require.Less(b.t, len(picture), mostPicture, name)
	require.NoError(b.t, os.WriteFile(*screenshots+"/"+name+".png", picture, 0o644))
}
