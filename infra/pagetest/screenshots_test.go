package pagetest_test

import (
	"flag"
	"os"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

var screenshots = flag.String("screenshots", "", "folder to write pictures of the page to; the time in them is UTC")

// mostPicture is how large a picture may be that people load with a document, in bytes.
const mostPicture = 150 << 10

// TestScreenshots writes the pictures that OPERATIONS.md shows.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("only with -screenshots")
	}
	snapshots, url := newFront(t)
	snapshots.put(t, example()...)
	browser := newBrowser(t)
	for name, on := range map[string]screen{"page.png": desktop, "page-phone.png": phone} {
		b := open(t, browser, on, url+"/pool")
		b.shows("#state", "Live")
		b.shows("#users-all", "Show all")
		picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		require.NoError(t, err)
		require.Less(t, len(picture), mostPicture, name)
		require.NoError(t, os.WriteFile(*screenshots+"/"+name, picture, 0o644))
	}
}
